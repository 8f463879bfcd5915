"""Kill a command at each of its writes, resume it, and compare with an undisturbed folder."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prunus.core import PrunusError
from tests.crash.clock import standing_still
from tests.crash.writes import Kill, Tree, refusing, tree_of, watching


@dataclass(frozen=True)
class Sweep:
    """One command: what is there before it, what it does, and what goes on after a kill.

    `start` and `resume` raise if the command fails. `prepare` fills the folder before the start.
    `stride` tries every so many states alone: the arms of a search are runs that other sweeps kill
    at every write.
    """

    name: str
    start: Callable[[Path], None]
    resume: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda folder: None
    stride: int = 1


class Swept:
    """A command that ran undisturbed in `folder`, and the kills that it could have met."""

    def __init__(self, sweep: Sweep, root: Path) -> None:
        self.sweep, self.root = sweep, root
        self.folder = root / "run"
        with standing_still():
            sweep.prepare(self.folder)
            with watching(self.folder, root / "kills") as watch:
                sweep.start(self.folder)
        self.points, self.kills = len(watch.moments), watch.found
        self.undisturbed = tree_of(self.folder)

    def resumed(self, kill: Kill, *, again: bool = False) -> list[str]:
        """Resume after a kill; return how the folder differs from the undisturbed one.

        With `again` the resume is killed too, at each of its writes.
        """
        self._put_back(kill)
        with standing_still():
            if not again:
                self.sweep.resume(self.folder)
                return differences(tree_of(self.folder), self.undisturbed)
            with tempfile.TemporaryDirectory(dir=self.root) as kills:
                with watching(self.folder, Path(kills)) as watch:
                    self.sweep.resume(self.folder)
                return [
                    f"after {second.moment}: {difference}"
                    for second in watch.found
                    for difference in self.resumed(second)
                ]

    def refused(self, kill: Kill, number: int) -> list[str]:
        """Resume where the folder cannot be written, then where it can; return what is wrong."""
        self._put_back(kill)
        said = io.StringIO()
        wrong = []
        with standing_still(), contextlib.redirect_stderr(said):
            try:
                with refusing(self.folder, number):
                    self.sweep.resume(self.folder)
            except Ended as ended:
                lines = [line for line in said.getvalue().splitlines() if line.strip()]
                if ended.code != 2 or len(lines) != 1 or os.strerror(number) not in lines[0]:
                    wrong.append(f"it ended with {ended.code} and said {lines[-3:]}")
            except PrunusError:
                pass  # a call of Python
            else:
                wrong = differences(tree_of(self.folder), self.undisturbed)
            self.sweep.resume(self.folder)
        return wrong + differences(tree_of(self.folder), self.undisturbed)

    def _put_back(self, kill: Kill) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if any(kill.left.iterdir()):
            shutil.copytree(kill.left, self.folder, symlinks=True)


class Ended(Exception):  # noqa: N818 - it is what a command did, not a fault of the sweep
    """A command ended with another exit code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


def differences(found: Tree, undisturbed: Tree) -> list[str]:
    """Return how two folders differ, a line each."""
    lines = [f"{name} is missing" for name in undisturbed.keys() - found.keys()]
    lines += [f"{name} is left over" for name in found.keys() - undisturbed.keys()]
    for name in found.keys() & undisturbed.keys():
        if found[name] != undisturbed[name]:
            lines.append(f"{name} differs: {_first_difference(found[name], undisturbed[name])}")
    return sorted(lines)


def _first_difference(found: bytes | None, undisturbed: bytes | None) -> str:
    a, b = (each or b"" for each in (found, undisturbed))
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    line = b.count(b"\n", 0, at) + 1
    there = f"{a[at : at + 80]!r}, not {b[at : at + 80]!r}"
    return f"{len(a)} bytes for {len(b)}, from line {line}: {there}"


def faults(
    swept: Swept, kills: Iterable[Kill], *, again: bool = False, error: int | None = None
) -> Iterator[str]:
    """Yield what a resume after each of the kills got wrong, first on a disk with an error."""
    for kill in kills:
        try:
            wrong = swept.resumed(kill, again=again)
            if error is not None:
                wrong += swept.refused(kill, error)
        except Exception as other:
            wrong = [f"{type(other).__name__}: {other}"]
        yield from (f"{swept.sweep.name}, killed {kill.moment}: {line}" for line in wrong)
