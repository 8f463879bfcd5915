"""Try one damage and one reader, and say what is wrong with what came of it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from prunus.core import PrunusError
from tests.damage.readers import DENSE, MODEL, PLAN, RECORD, Reader
from tests.damage.ways import GONE

#: Seconds for one reader; a hang is a fault.
LIMIT = 30


class TooLongError(BaseException):
    """The limit of a case is over."""


def expected(kind: str, name: str, way: str, reader: Reader) -> str:
    """Return `refused`, `answered`, or `either` with the reason why both are right."""
    if not reader.reads_file(name):
        return "answered"
    if way in GONE and reader.does_without(name):
        return "either"  # `load` says that it is gone
    if kind == "old" and name not in (PLAN, MODEL, DENSE):
        return "either"  # earlier versions did not seal it, nor had checksums in the journal
    if name == RECORD and way in ("half", "bit of the end", "longer"):
        return "either"  # an earlier state of the same run: what it seals is checked
    if name == RECORD and way == "CRLF":
        return "either"  # every row has its checksum still
    if way == "unreadable" or way in ("directory", "FIFO") or way in GONE:
        return "refused"
    if not reader.sealed or name.endswith(".pt"):
        return "either"  # no journal tells it from another
    return "refused"


class Outcome:
    """What came of a call: `answer`, or `refusal` with its sentence, or `fault`."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.refusal = ""
        self.fault = ""


@contextlib.contextmanager
def limited(folder: Path) -> Iterator[None]:
    """Raise `TooLongError` after the limit, and let go who waits for a FIFO in the folder."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    def let_go() -> None:
        for path in folder.rglob("*"):
            if path.is_fifo():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    before = signal.signal(signal.SIGALRM, over)
    timer = threading.Timer(LIMIT, let_go)
    timer.start()
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        timer.cancel()
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Let opening a file fail as it does for who may not read it: tests may run as root."""
    real = os.open

    def refuse(name: Any, *given: Any, **named: Any) -> int:
        if isinstance(name, (str, os.PathLike)) and Path(name) == path:
            raise PermissionError(13, "Permission denied", str(name))
        return real(name, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield


def ask(reader: Reader, run: Path, out: Path) -> Outcome:
    """Ask a reader; a refusal is one sentence, of a command with exit code 1 or 2."""
    outcome = Outcome()
    said, errors = io.StringIO(), io.StringIO()
    began = time.monotonic()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
            limited(run),
        ):
            warnings.simplefilter("ignore")
            outcome.answer = reader.call(run, out)
    except PrunusError as error:
        outcome.refusal = str(error)
    except TooLongError:
        outcome.fault = f"took more than {LIMIT} s"
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        outcome.fault = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
    else:
        code = outcome.answer
        if isinstance(code, int) and code != 0:
            lines = errors.getvalue().strip().splitlines()
            if code == 1 and not lines:  # `load` says on a page what differs
                lines = ["prunus: " + " ".join(said.getvalue().split())]
            outcome.refusal = " ".join(lines).removeprefix("prunus: ")
            outcome.answer = None
            if code not in (1, 2) or len(lines) != 1 or not lines[0].startswith("prunus: "):
                outcome.fault = f"exit {code}: {errors.getvalue()[-600:]!r}"
        elif isinstance(code, int):
            outcome.answer = said.getvalue().replace(str(run.parent), "")
    if time.monotonic() - began > LIMIT:
        outcome.fault = f"took more than {LIMIT} s"
    return outcome


def state_of(folder: Path) -> dict[str, Any]:
    """Return what tells whether a file was touched."""
    return {
        str(path.relative_to(folder)): ((s := path.lstat()).st_ino, s.st_size, s.st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def copied(source: Path, target: Path) -> Path:
    """Copy a folder: files are shared, except journals, which are appended to."""

    def copy(old: str, new: str) -> None:
        if Path(old).name == RECORD:
            shutil.copy(old, new)
        else:
            os.link(old, new)

    return Path(shutil.copytree(source, target, copy_function=copy))


def judge(
    kind: str, name: str, way: str, reader: Reader, run: Path, out: Path, right: Any
) -> tuple[str, str]:
    """Return what came of a case (`refused` or `answered`), and what is wrong with that, if any."""
    before = state_of(run)
    with unreadable(run / name) if way == "unreadable" else contextlib.nullcontext():
        outcome = ask(reader, run, out)
    if outcome.fault:
        return "fault", outcome.fault
    wanted = expected(kind, name, way, reader)
    if outcome.refusal:
        if wanted == "answered" and right is not None:  # else the whole folder is refused too
            return "refused", f"refused, but it need not read the file: {outcome.refusal}"
        if str(run) not in outcome.refusal:
            return "refused", f"names neither file nor folder: {outcome.refusal}"
        if state_of(run) != before:
            return "refused", f"refused, but changed the folder: {outcome.refusal}"
        return "refused", ""
    if wanted == "refused":
        return "answered", "answered, though the file is damaged"
    if wanted == "answered" and right is not None and outcome.answer != right:
        return "answered", "another answer than that of the whole folder"
    return "answered", ""
