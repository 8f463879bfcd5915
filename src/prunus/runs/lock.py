"""One process at a time writes a run folder."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunus.core import RunFolderError, sweep_scratch, unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]

#: The folders that this process writes: the open folder and the thread that locked it.
_HELD: dict[Path, tuple[int, int]] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing `folder`, which is created, within a `with` block.

    The lock is one of the operating system on the open folder (`flock`): it leaves no file, and
    ends with the process however that ends. A thread may lock a folder again that it holds. Where
    there are no such locks, a warning says so. What a killed process left half-written is removed.

    Raises:
        RunFolderError: another process or thread writes the folder; names it.
        FileError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
    except OSError as error:
        raise unwritable(folder, error) from error
    if place in _HELD and _HELD[place][1] == threading.get_ident():
        yield
        return
    handle = _lock(place, folder)
    _HELD[place] = (handle, threading.get_ident())
    try:
        sweep_scratch(folder)
        yield
    finally:
        del _HELD[place]
        os.close(handle)


def _lock(place: Path, folder: Path) -> int:
    """Open and lock a folder; return its descriptor."""
    try:
        handle = os.open(place, os.O_RDONLY) if fcntl else os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        if fcntl is None:
            raise OSError("this system has no flock")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(handle)
        os.close(handle)
        raise RunFolderError(
            f"{folder} is being written by {owner}: wait until it ends, or give another folder"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror or error}): see to it that no other "
            "process writes it",
            stacklevel=4,
        )
    return handle


def _owner(handle: int) -> str:
    """Return which process holds the lock, as far as Linux says."""
    found = os.fstat(handle)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if "FLOCK" in fields and place in fields:
                pid = int(fields[fields.index(place) - 1])
                if pid == os.getpid():
                    return "another thread of this process"
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                command = " ".join(words.split("\0")).strip()
                return f"process {pid} ({command[:200]})"
    return "another process"


def _let_go() -> None:
    """Close what a forked child inherited: it is no writer, and would outlive the lock's owner."""
    for handle, _ in _HELD.values():
        with suppress(OSError):
            os.close(handle)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
