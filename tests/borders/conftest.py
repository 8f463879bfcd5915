"""Every wait has an end, and times are not measured: a row of the corpus takes half a second."""

import functools
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

import prunus
from prunus.export import Parity
from prunus.pipelines.pruning import timing

#: Seconds after which a row is taken to hang; machines may be busy.
LIMIT = 120.0


@pytest.fixture(autouse=True)
def _a_row_does_not_hang() -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"hangs: no end after {LIMIT:.0f} seconds")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        timing, "compare_latency", functools.partial(timing.compare_latency, rounds=6)
    )
    monkeypatch.setattr(timing, "BATCHES", (1, 2))


@pytest.fixture
def no_artefacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the ONNX file and the page of `Report.save`, which take seconds."""
    monkeypatch.setattr(
        "prunus.pipelines.pruning.api.export_onnx",
        lambda *_: Parity(0.0, 1e-4, 0),
        raising=False,
    )
    monkeypatch.setattr(prunus.Report, "to_html", lambda _: "")
