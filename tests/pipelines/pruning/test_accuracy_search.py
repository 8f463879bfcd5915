"""The smallest network that keeps an accuracy."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.data import DataSplits
from prunus.evaluation import accuracy, count_macs, count_params
from prunus.pipelines import Journal
from prunus.runs.session import p_phase_
from prunus.training import TrainConfig
from tests.pipelines.conftest import EXAMPLE, Run, quick


def rows_of(journal: Journal) -> list[tuple[int, int, bool]]:
    """Return (iteration, MACs, kept) of every try."""
    tries = journal.record.all("iteration")[1:]
    return [(row["iteration"], row["macs"], row["kept"]) for row in tries]


def test_the_network_found_keeps_the_floor_and_is_smaller(
    run: Run, lenet: nn.Module, digits: DataSplits
) -> None:
    model, _, journal = run("accuracy>=93%", quick(step=0.4, final=TrainConfig(epochs=3)))
    assert accuracy(model, digits.validation) >= 0.93
    assert count_macs(model, EXAMPLE) < 0.5 * count_macs(lenet, EXAMPLE)
    tries = rows_of(journal)
    held, log_step = journal.record.find("iteration", iteration=0)["macs"], 1.0
    for _, macs, kept in tries:
        assert macs <= 0.4**log_step * held
        if kept:
            held = macs
        else:
            log_step /= 2
    assert not all(kept for _, _, kept in tries)
    assert count_macs(model, EXAMPLE) == held
    stop = journal.record.find("stop")
    assert "the smallest network found with 93.00% or more" in stop["reason"]


def test_tries_are_limited(run: Run) -> None:
    _, _, journal = run("accuracy>=10%", quick(step=0.9, iterations_max=2))
    assert [kept for *_, kept in rows_of(journal)] == [True, True]
    assert "iterations_max=2" in journal.record.find("stop")["reason"]


def test_the_search_ends_at_the_least_there_is(run: Run) -> None:
    none = TrainConfig(epochs=0)
    kept = {"keep_class": tuple(range(10)), "keep_share": 0.1}
    config = quick(step=0.05, final=none, finetune=none, iterations_max=9, **kept)
    _, plan, journal = run("accuracy>=1%", config)
    protected = journal.record.find("protected")["groups"]
    assert {n: sorted(e.kept()) for n, e in plan.groups.items()} == protected
    assert "nothing more can be removed" in journal.record.find("stop")["reason"]
    assert len(rows_of(journal)) < 9


def test_limits_beside_an_accuracy_are_met_and_no_more(run: Run, lenet: nn.Module) -> None:
    model, _, journal = run("params=40%, accuracy>=85%", quick())
    assert journal.record.find("stop")["reason"] == "the budget is met"
    whole = count_params(lenet)
    assert 0.3 * whole < count_params(model) <= 0.4 * whole
    assert accuracy_row(journal) >= 0.85


def accuracy_row(journal: Journal) -> float:
    found: float = journal.record.find("final")["after"]
    return found


def test_limits_that_cannot_be_kept_with_the_accuracy_are_said(run: Run) -> None:
    none = TrainConfig(epochs=0)
    _, _, journal = run(
        "params=0.4%, accuracy>=94%", quick(step=0.3, finetune=none, final=none, iterations_max=4)
    )
    reason = journal.record.find("stop")["reason"]
    assert reason.startswith("the limits params ≤ 0.4%, accuracy ≥ 94% could not all be met")


def test_a_final_training_that_loses_the_floor_is_taken_back(
    run: Run, digits: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = sys.modules["prunus.pipelines.pruning.ps_iteration"]
    real = p_phase_

    def spoilt(model: nn.Module, *arguments: object, **options: object) -> object:
        row = real(model, *arguments, **options)  # type: ignore[arg-type]
        if options["phase"] == "final":
            for p in model.parameters():
                p.data.zero_()
            row["validation_accuracy"] = accuracy(model, digits.validation)
        return row

    monkeypatch.setattr(room, "p_phase_", spoilt)
    model, _, journal = run("accuracy>=90%", quick(step=0.5, iterations_max=1))
    final = journal.record.find("final")
    assert final["kept"] is False
    assert final["after"] < 0.9 <= final["before"] == accuracy(model, digits.validation)


def test_a_search_cut_short_anywhere_ends_the_same(run: Run, tmp_path: Path) -> None:
    config = quick(step=0.3, iterations_max=4)
    folder = tmp_path
    model, plan, _ = run("accuracy>=93%", config, folder)
    path = folder / "record.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("iteration") == 5
    for keep in (3, events.index("prune"), len(lines) // 2, len(lines) - 2):
        path.write_text("".join(lines[:keep]))
        for state in (folder / "steps").glob("*.pt"):
            state.unlink()
        again, same, journal = run("accuracy>=93%", config, folder)
        assert same.to_json() == plan.to_json()
        assert [row["event"] for row in journal.record.rows] == events
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), (keep, name)
