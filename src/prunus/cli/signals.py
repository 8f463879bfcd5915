"""Ctrl-C, `kill` and a closed terminal end a command with the command to go on with."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Stopped", "say_stopped", "stopping"]

#: What ends a command in an orderly way; SIGHUP is what a closed terminal sends.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
#: Seconds after which a command that goes on in spite of a signal is ended.
PATIENCE = 10
#: Commands that go on where they were stopped.
RESUMABLE = ("prune", "train", "push", "grow", "search")


class Stopped(BaseException):
    """A signal asked the command to end.

    It is no `KeyboardInterrupt`, which the parser of the command line would take for its own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` at the first signal within a `with` block; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    timers: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        timers.append(threading.Timer(PATIENCE, _end, (number,)))
        timers[-1].daemon = True
        timers[-1].start()
        raise Stopped(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int) -> None:
    """End the process where a library has caught `Stopped` and gone on: files are whole anyway."""
    sys.stderr.write(f"prunus: {say_stopped(Stopped(number), sys.argv[1:])}\n")
    sys.stderr.flush()
    os._exit(128 + number)


def say_stopped(stopped: Stopped, arguments: Sequence[str]) -> str:
    """Return what was stopped, and the command to go on with.

    Example:
        >>> say_stopped(Stopped(2), ["score", "runs/a"])
        'stopped by SIGINT: to run it again, give: prunus score runs/a'
    """
    command = "prunus " + shlex.join(arguments)
    if not (arguments and arguments[0] in RESUMABLE and _begun(arguments)):
        return f"stopped by {stopped}: to run it again, give: {command}"
    again = command if "--resume" in arguments else f"{command} --resume"
    return f"stopped by {stopped}; what was finished is kept: to go on, give: {again}"


def _begun(arguments: Sequence[str]) -> bool:
    """Return whether the run folder of a command has been created."""
    for at, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--out":
            value = value if equals else "".join(arguments[at + 1 : at + 2])
            return bool(value) and Path(value, "config.yaml").exists()
    return False
