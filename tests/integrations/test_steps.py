"""What all callbacks share: settings, batches, what is due."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from prunus.core import Record
from prunus.core.errors import BudgetError, ConfigError, DataError, PrunusError, RunFolderError
from prunus.integrations.batches import labelled
from prunus.integrations.steps import PruningSteps
from prunus.pipelines import PruneConfig
from tests.borders.untouched import state
from tests.integrations.digits import digits, network


def steps(budget: str = "macs=50%", **given: Any) -> PruningSteps:
    options: dict[str, Any] = {
        "at_epochs": None, "every": None, "steps": None, "out": None, "config": None,
        "batches": 2, "reader": None, "seed": 0,
    }  # fmt: skip
    return PruningSteps(budget, **{**options, **given})


def test_epochs() -> None:
    assert steps(every=2, steps=4).epochs == (2, 4, 6, 8)
    assert steps(every=3).epochs == (3, 6, 9)
    assert steps(at_epochs=[0, 5]).epochs == (0, 5)


def test_what_is_due() -> None:
    plan = steps(at_epochs=[1, 3])
    assert [plan.due(e) for e in range(3)] == [False, True, True]  # a missed one is made up for
    plan.done = 1
    assert [plan.due(e) for e in range(5)] == [False, False, False, True, True]
    plan.done = 2
    assert not plan.due(9)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, ConfigError, "pass at_epochs="),
        ({"every": 0}, ConfigError, "pass at_epochs="),
        ({"every": 2, "at_epochs": [1]}, ConfigError, "pass at_epochs="),
        ({"at_epochs": [1], "steps": 2}, ConfigError, "pass at_epochs="),
        ({"at_epochs": []}, ConfigError, "increasing numbers"),
        ({"at_epochs": [3, 2]}, ConfigError, "increasing numbers"),
        ({"every": 1, "batches": 0}, ConfigError, "batches is 0"),
        ({"every": 1, "budget": "ms=1"}, BudgetError, "not supported inside"),
        ({"every": 1, "budget": "accuracy>=0.9"}, BudgetError, "not supported inside"),
        ({"every": 1, "config": PruneConfig(min_accuracy=0.9)}, ConfigError, "min_accuracy"),
        ({"every": 1, "config": PruneConfig(criterion="best")}, PrunusError, "best"),
    ],
)
def test_bad_settings(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        steps(**given)


def test_the_folder_of_a_run_is_left_alone(tmp_path: Path) -> None:
    Record(tmp_path / "record.jsonl").append("stop", reason="done")
    with pytest.raises(RunFolderError, match="contains a run, whose journal seals its own plan"):
        steps(every=1, out=tmp_path)


X, Y = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    "batch",
    [(X, Y), [X, Y, "more"], {"pixel_values": X, "labels": Y}, {"label": Y, "image": X}],
)
def test_batches_that_are_read(batch: Any) -> None:
    found = labelled(batch, network())
    assert found.inputs.tensors[0] is X
    assert found.labels is Y
    assert labelled({"a": [X, Y]}, network(), lambda b: b["a"]).labels is Y


@pytest.mark.parametrize("batch", [X, (X,), [X, None], {"image": X}, {}, "image"])
def test_batches_that_are_not(batch: Any) -> None:
    with pytest.raises(DataError, match=r"pass reader="):
        labelled(batch, network())


def test_a_refusal_comes_before_training() -> None:
    loader = DataLoader(TensorDataset(*digits(64)), 32)
    with pytest.raises(ConfigError, match="training has 3 epochs"):
        steps(at_epochs=[1, 3]).begin(network(), loader, epochs=3)
    with pytest.raises(BudgetError, match="cannot be reached: the least is"):
        steps("params=1", every=1).begin(network(), loader, epochs=None)
    with pytest.raises(DataError, match="yields no batch"):
        steps(every=1).begin(network(), [], epochs=None)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(*digits(8), strict=True))


def test_streams_and_kept_classes() -> None:
    """Data without an index are read as they come; units that know a kept class never go."""
    shared = steps(every=1, config=PruneConfig(keep_class=(3,), blocks=1, compensate="none"))
    model, loader = network(), DataLoader(Stream(), 4)
    shared.begin(model, loader, epochs=None)
    assert sum(map(len, shared.protected.values())) > 0
    shared.step_(model, [], loader, epoch=1)
    for name, units in shared.protected.items():
        edit = shared.plan.groups.get(name)
        assert edit is None or not set(units) & set(edit.removed)


@pytest.mark.parametrize(
    "where", ["pipelines.pruning.s_phase.trace", "integrations.steps.write_whole"]
)
def test_a_step_that_breaks_off_is_taken_back(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also after the cut, with two optimisers: network, momenta and progress are as before."""
    shared = steps(every=1, out=tmp_path, config=PruneConfig(blocks=1))
    model, loader = network(), DataLoader(TensorDataset(*digits(64)), 32)
    shared.begin(model, loader, epochs=None)
    first, second = list(model[:3].parameters()), list(model[3:].parameters())
    optimizers = [torch.optim.AdamW(first), torch.optim.SGD(second, lr=0.1, momentum=0.9)]
    model(digits(8)[0]).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    model[1].eval()

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("no space left")

    def everything() -> Any:
        held = [[id(p) for g in o.param_groups for p in g["params"]] for o in optimizers]
        moments = [[(id(p), list(s)) for p, s in o.state.items()] for o in optimizers]
        return state(model), held, moments, shared.state()

    before = everything()
    with monkeypatch.context() as patched:
        patched.setattr(f"prunus.{where}", broken)
        with pytest.raises(OSError, match="no space left"):
            shared.step_(model, optimizers, loader, epoch=1)
    assert everything() == before
    shared.step_(model, optimizers, loader, epoch=1)
    assert shared.done == 1 and everything() != before


def test_a_checkpoint_that_cannot_be_read_cuts_nothing() -> None:
    model, loader = network(), DataLoader(TensorDataset(*digits(64)), 32)
    done = steps(every=1, config=PruneConfig(blocks=1, compensate="none"))
    done.begin(model, loader, epochs=None)
    done.step_(model, [], loader, epoch=1)
    fresh, shared = network(), steps(every=1)
    before = state(fresh)
    with pytest.raises(json.JSONDecodeError):
        shared.widths_(fresh, {**done.state(), "history": "{"})
    assert state(fresh) == before and shared.done == 0
