"""Every change of a folder while a command runs, and the state of the disk before and after it.

A killed process leaves the disk as it is at that moment. So the run goes on, and what a kill there
would have left is a copy of the folder: one run gives the states of all kills.
"""

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Events of Python that change a folder, and the position of the changed path in their arguments.
CHANGES = {
    "os.rename": 1,
    "os.remove": 0,
    "os.mkdir": 0,
    "os.rmdir": 0,
    "os.truncate": 0,
    "os.chmod": 0,
    "os.link": 1,
    "os.symlink": 1,
    "shutil.move": 1,
}
Tree = dict[str, bytes | None]


def tree_of(folder: Path) -> Tree:
    """Return the content of every file of a folder, and None for each folder in it."""
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def digest_of(folder: Path) -> str:
    found = hashlib.sha256()
    for name, content in tree_of(folder).items():
        found.update(f"{name}\0{None if content is None else len(content)}\0".encode())
        found.update(content or b"")
    return found.hexdigest()


@dataclass
class Kill:
    """A moment at which the command could have been killed, and what it would have left."""

    number: int
    moment: str
    left: Path


@dataclass
class Watch:
    """Copies `folder` to `kills` at each of its changes; equal states are copied once."""

    folder: Path
    kills: Path
    found: list[Kill] = field(default_factory=list)
    moments: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    busy: bool = False

    def look(self, moment: str, cut: Path | None = None) -> None:
        """Note a kill at this moment; with `cut`, one in the middle of the write of that file."""
        if self.busy:
            return
        self.busy = True
        try:
            self.moments.append(moment)
            left = self.kills / f"{len(self.moments):04d}"
            if self.folder.exists():
                shutil.copytree(self.folder, left, symlinks=True)
            else:
                left.mkdir(parents=True)
            if cut is not None:
                _halve(left / cut.relative_to(self.folder))
            key = digest_of(left)
            if key in self.seen:
                shutil.rmtree(left)
            else:
                self.seen.add(key)
                self.found.append(Kill(len(self.moments), moment, left))
        finally:
            self.busy = False

    def inside(self, path: Any) -> Path | None:
        """Return a path in the watched folder, or None."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        whole = Path(os.fsdecode(path)).absolute()
        return whole if whole == self.folder or self.folder in whole.parents else None


def _halve(path: Path) -> None:
    """Leave the half of what was written last: of a journal its last line, else the file's."""
    content = path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1 if path.suffix == ".jsonl" else 0
    path.write_bytes(content[: (start + len(content)) // 2])


#: The watches that are on; Python's audit hooks cannot be removed.
_ON: list[Watch] = []


#: The folder that refuses to be written, and with which error.
_REFUSED: list[tuple[Path, int]] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _REFUSED:
        _refuse(event, arguments)
    if not _ON:
        return
    watch = _ON[-1]
    if watch.busy:
        return
    if event == "open":
        path, _, flags = arguments
        whole = watch.inside(path)
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if whole is not None and (writes or whole.is_dir()):
            watch.look(f"before {'writing' if writes else 'syncing'} {whole.name}")
    elif event in CHANGES:
        whole = watch.inside(arguments[CHANGES[event]])
        if whole is not None:
            watch.look(f"before {event} {whole.name}")


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail as a system does that cannot write; a full disk still lets files be removed."""
    folder, number = _REFUSED[-1]
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        path = arguments[CHANGES[event]] if event in CHANGES else None
        writes = number != errno.ENOSPC or event == "os.mkdir"
    if writes and isinstance(path, (str, bytes, os.PathLike)):
        whole = Path(os.fsdecode(path)).absolute()
        if whole == folder or folder in whole.parents:
            raise OSError(number, os.strerror(number), str(whole))


sys.addaudithook(_heard)


@contextmanager
def refusing(folder: Path, number: int) -> Iterator[None]:
    """Let every write to a folder fail with an error of the system within a `with` block."""
    _REFUSED.append((folder.absolute(), number))
    try:
        yield
    finally:
        _REFUSED.pop()


@contextmanager
def watching(folder: Path, kills: Path) -> Iterator[Watch]:
    """Watch a folder, which no other process may change, within a `with` block."""
    watch = Watch(folder.absolute(), kills)
    sync = os.fsync

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if watch.inside(path) and path.is_file():
            watch.look(f"in the middle of {path.name}", cut=path)
            watch.look(f"before syncing {path.name}")
        sync(handle)

    _ON.append(watch)
    os.fsync = fsync
    try:
        yield watch
        watch.look("at the end")
    finally:
        os.fsync = sync
        _ON.remove(watch)
