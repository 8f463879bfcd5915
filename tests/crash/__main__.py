"""`python -m tests.crash [--all] [COMMAND…]`: kill every command, or those named, at its writes.

After each kill the command is resumed, and once more on a disk that is full until it has said so.
"""

import contextlib
import errno
import io
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.commands import SWEEPS
from tests.crash.sweep import Sweep, Swept, faults

#: Try every state of every command, also of a search: an hour.
ALL = "--all"


def swept(sweep: Sweep) -> int:
    """Kill one command everywhere; print its faults and a summary, and return their number."""
    began = time.perf_counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        found = Swept(sweep, Path(root))
        once = time.perf_counter() - began
        tried = found.kills[:: 1 if ALL in sys.argv else sweep.stride]
        for line in faults(found, tried, error=errno.ENOSPC):
            wrong += 1
            sys.stderr.write(f"  {line}\n")
    sys.stdout.write(
        f"{sweep.name}: killed at {found.points} writes, which leave {len(found.kills)} states of "
        f"the folder; of {len(tried)} resumed, {wrong} wrongly. {once:.0f} s undisturbed, "
        f"{time.perf_counter() - began:.0f} s in all\n"
    )
    sys.stdout.flush()
    return wrong


if __name__ == "__main__":
    named = [name for name in sys.argv[1:] if name != ALL]
    sys.exit(sum(swept(each) for each in SWEEPS if not named or each.name in named) > 0)
