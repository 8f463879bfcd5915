"""A clock that stands still: what a run measures with it is the same in every run."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

STANDING = SimpleNamespace(
    **{name: getattr(time, name) for name in dir(time) if name[0] != "_"}
    | {name: lambda: 0.0 for name in ("perf_counter", "monotonic", "time")}
)
TIMED = {"median": 1.0, "low": 1.0, "high": 1.0}


def timing_row(runtime: str, *_: Any, **__: Any) -> dict[str, Any]:
    """Stand for the timing of two networks."""
    row = {**{name: dict(TIMED) for name in ("dense", "pruned", "speedup")}, "rounds": 6}
    return {"threads": 1, "batches": {"1": row, "64": row}}


@contextmanager
def standing_still() -> Iterator[None]:
    """Let no file depend on the time within a `with` block."""
    from prunus.pipelines.pruning import run
    from prunus.runs import environment

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("prunus.") and getattr(module, "time", None) is time:
                patch.setattr(module, "time", STANDING)
        patch.setattr(run, "timing_row", timing_row)
        now = SimpleNamespace(now=lambda zone: SimpleNamespace(strftime=lambda form: "then"))
        patch.setattr(environment, "datetime", now)
        yield
