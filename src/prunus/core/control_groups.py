"""The control groups of this process on Linux: where a container's limits are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["ControlGroup", "control_groups"]


@dataclass(frozen=True)
class ControlGroup:
    """A group that limits this process: its folder, and whether it is of the second version."""

    folder: Path
    unified: bool

    def number(self, name: str) -> int | None:
        """Return the whole number in a file of the group; None without one ("max", no file)."""
        words = self.words(name)
        return int(words[0]) if words and words[0].lstrip("-").isdigit() else None

    def words(self, name: str) -> list[str]:
        """Return the words of a file of the group; none if it cannot be read."""
        return _read(self.folder / name).split()

    def entry(self, name: str, key: str) -> int:
        """Return the number behind `key` in a file of keys and numbers; 0 without it."""
        words = self.words(name)
        return int(words[words.index(key) + 1]) if key in words else 0


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[ControlGroup]:
    """Yield the groups of this process for "memory" or "cpu", from its own to the topmost visible.

    Each of them limits what it and all groups below it use together. Both versions are read, also
    side by side: the second has one tree for all controllers, the first one for each. A container
    sees its own group at the mount point, whatever its name outside. `root` is where / is, for
    tests. There are none on other systems.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1; man 7 cgroups.
    """
    own = dict(_memberships(root))
    for kind, options, top, mounted in _mounts(root):
        unified = kind == "cgroup2"
        if not unified and controller not in options:
            continue
        inside = own.get("" if unified else controller)
        if inside is None:
            continue
        place = root / mounted.lstrip("/")
        for folder in _upwards(place, PurePosixPath(inside), PurePosixPath(top)):
            yield ControlGroup(folder, unified)


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each controller, "" for all of the second version, and this process's path in it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """Yield the type, options, topmost group and mount point of each tree of groups."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.partition(" ")
        if kind in ("cgroup", "cgroup2"):
            top, mounted = place.split(" ")[3:5]
            yield kind, options.split(" ")[-1].split(","), top, mounted.replace("\\040", " ")


def _upwards(place: Path, inside: PurePosixPath, top: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of the group `inside`, and those above it up to the mount at `place`."""
    below = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath()
    if ".." in below.parts or not (place / below).is_dir():
        below = PurePosixPath()  # the group is named as seen from outside the container
    for parts in range(len(below.parts), -1, -1):
        yield place.joinpath(*below.parts[:parts])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
