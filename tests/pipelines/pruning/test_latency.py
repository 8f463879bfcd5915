"""What a latency table decides, and how networks are timed, with made-up machines."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.batches import Inputs
from prunus.core.errors import ExportError
from prunus.data import DataSplits
from prunus.evaluation import Comparison, LatencyTable, RuntimeUnavailableError, WidthSteps
from prunus.graph import Groups
from prunus.pipelines import Journal, PruneConfig, Session, Watch
from prunus.pipelines.pruning import latency, timing
from prunus.pipelines.pruning.latency import with_round_to
from prunus.pipelines.pruning.timing import timing_row
from prunus.plan import Budget, least_costs
from tests.pipelines.conftest import EXAMPLE, Run, quick
from tests.plan.test_rules import linear_table


def stepped(groups: Groups, multiple: int) -> LatencyTable:
    """A table whose layers are slower between multiples of `multiple`."""
    times = tuple(1.0 + 0.3 * (width % multiple > 0) for width in range(17))
    widths = tuple(range(48, 65))
    steps = (WidthSteps("made up", 1, widths, widths, (times,) * 20),)
    return dataclasses.replace(linear_table(groups), steps=steps)


class Says(Watch):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def session_of(table: LatencyTable | None) -> Session:
    return Session(
        loaders=None,  # type: ignore[arg-type]
        fabric=None,
        seed=0,
        journal=Journal(),
        watch=Says(),
        table=table,
    )


def chosen(
    lenet: nn.Module, budget: str, config: PruneConfig, multiple: int
) -> tuple[int, Session]:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    session = session_of(stepped(groups, multiple))
    found = with_round_to(config, Budget.parse(budget), groups, session, protected={})
    assert found == dataclasses.replace(config, round_to=found.round_to)
    assert found.round_to is not None
    return found.round_to, session


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_the_multiple_of_the_table_is_taken_and_told(lenet: nn.Module, multiple: int) -> None:
    found, session = chosen(lenet, "ms=50%", quick(), multiple)
    assert found == multiple
    row = session.journal.record.find("round_to")
    assert row is not None
    assert (row["multiple"], row["layers"], set(row["excess"])) == (multiple, 1, {"4", "8", "16"})
    assert row["reason"].startswith(f"multiples of {multiple}: widths between them cost ")
    assert isinstance(session.watch, Says)
    assert session.watch.said == [f"widths: {row['reason']}"]


def test_the_users_own_multiple_wins_and_is_not_explained(lenet: nn.Module) -> None:
    found, session = chosen(lenet, "ms=50%", quick(round_to=3), 8)
    assert found == 3
    assert session.journal.record.rows == []


def test_a_multiple_that_puts_the_budget_out_of_reach_gives_way(lenet: nn.Module) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    table = stepped(groups, 16)
    least = {m: least_costs(groups, round_to=m, table=table)["ms"] for m in (1, 4, 8)}
    assert least[4] < least[8]
    found, session = chosen(lenet, f"ms={(least[4] + least[8]) / 2}", quick(), 16)
    assert found == 4
    row = session.journal.record.find("round_to")
    assert row is not None
    assert row["reason"].endswith(
        "multiples of 4 are used, because the budget cannot be reached with 16"
    )
    found, session = chosen(lenet, f"ms={1.0001 * least[1]}", quick(), 16)
    assert found == 1
    row = session.journal.record.find("round_to")
    assert row is not None
    assert row["reason"].endswith("any width is used, because the budget cannot be reached with 16")


def test_without_a_table_any_width_will_do(lenet: nn.Module) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    session = session_of(None)
    found = with_round_to(quick(), Budget.parse("macs=50%"), groups, session, protected={})
    assert found.round_to == 1
    assert session.journal.record.rows == []


def test_a_run_keeps_the_widths_chosen(run: Run, lenet: nn.Module) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    _, plan, journal = run("ms=60%", quick(), table=stepped(groups, 8))
    for edit in plan.groups.values():
        assert len(edit.kept()) % 8 == 0 or not edit.removed
    assert journal.record.find("round_to")["multiple"] == 8


def test_steps_are_measured_where_no_multiple_is_given(
    lenet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE)
    asked = []

    def measure(*_: Any, steps: bool, **__: Any) -> LatencyTable:
        asked.append(steps)
        return linear_table(groups)

    monkeypatch.setattr(latency, "measure_latency_table", measure)
    for round_to in (None, 1):
        latency.table_for(Budget.parse("ms=60%"), lenet, groups, EXAMPLE, quick(round_to=round_to))
    assert asked == [True, False]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the pruned network takes half the time, by rounds of 1, 2 … 6 s."""

    def compare(calls: Mapping[str, Callable[[], object]]) -> Comparison:
        for call in calls.values():
            call()
        assert list(calls) == ["dense", "pruned"]
        seconds = tuple(map(float, range(1, 7)))
        return Comparison({"dense": seconds, "pruned": tuple(s / 2 for s in seconds)})

    monkeypatch.setattr(timing, "compare_latency", compare)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.usefixtures("fake")
def test_a_row_has_every_batch_with_intervals() -> None:
    example = torch.randn(5, 1, 2, 2)
    table = LatencyTable({}, {}, 1.0, 7, 1, "made up")
    row = timing_row("eager", network(), network(), example, table=table)
    assert row["threads"] == torch.get_num_threads()
    assert set(row["batches"]) == {"1", "7", "64"}
    for found in row["batches"].values():
        assert found == {
            "dense": {"median": 3.5, "low": 1.0, "high": 6.0},
            "pruned": {"median": 1.75, "low": 0.5, "high": 3.0},
            "speedup": {"median": 2.0, "low": 2.0, "high": 2.0},
            "rounds": 6,
        }
    assert set(timing_row("eager", network(), network(), example)["batches"]) == {"1", "64"}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("written", [False, True])
def test_onnx_files_are_made_where_there_are_none(
    written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = [], []

    def export(model: nn.Module, images: torch.Tensor, path: Path) -> None:
        made.append(path)
        path.touch()

    def call(path: Path, images: Inputs) -> Callable[[], object]:
        assert path.exists()
        run.append((path.stem, images.size))
        return lambda: None

    monkeypatch.setattr(timing, "export_onnx", export)
    monkeypatch.setattr(timing, "onnx_call", call)
    path = tmp_path / "model.onnx"
    path.touch()
    example = torch.randn(2, 1, 2, 2)
    onnx = path if written else None
    row = timing_row("onnxruntime", network(), network(), example, onnx=onnx)
    assert set(row["batches"]) == {"1", "64"}
    pruned = "model" if written else "pruned"
    assert run == [("dense", 1), (pruned, 1), ("dense", 64), (pruned, 64)]
    assert [one.stem for one in made] == ["dense"] if written else ["dense", "pruned"]
    assert not any(one.exists() for one in made)
    assert path.exists()


@pytest.mark.parametrize(
    ("runtime", "part", "error"),
    [
        ("compile", "compiled_call", RuntimeUnavailableError("there is no compiler")),
        ("onnxruntime", "export_onnx", ExportError("it has no such operator")),
    ],
)
def test_a_runtime_that_fails_says_why(
    runtime: str, part: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(timing, part, fail)
    row = timing_row(runtime, network(), network(), torch.randn(2, 1, 2, 2))
    assert row == {"threads": torch.get_num_threads(), "skipped": str(error)}


def test_compile_is_timed_in_python_where_asked_for(
    lenet: nn.Module, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        sys.modules["prunus.pipelines.pruning.api"],
        "timing_row",
        lambda runtime, *_, **__: seen.append(runtime) or {},
    )
    none = prunus.TrainConfig(epochs=0)
    config = quick(iterations=1, finetune=none, final=none, runtimes=("compile", "onnxruntime"))
    prunus.prune(lenet, digits.calibration, "macs=50%", config=config, device="cpu")
    assert seen == ["eager", "compile"]
