"""Measured loss of each group against the predicted one."""

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus.data import DataSplits
from prunus.pipelines.pruning.curves import measure_curves
from prunus.plan import plan_units
from prunus.surgery import mask_
from tests.pipelines.conftest import EXAMPLE, Run, quick


def cross_entropy(model: nn.Module, digits: DataSplits) -> float:
    """Return the mean loss on the validation images, one by one."""
    losses = []
    for x, y in digits.validation:
        p = model(x).detach().double().softmax(1)
        losses += [-float(row[label].log()) for row, label in zip(p, y, strict=True)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("criterion", ["stacked", "l1"])
def test_factors_are_measured_over_predicted(
    lenet: nn.Module, digits: DataSplits, criterion: str
) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    statistics = prunus.collect(lenet, digits.calibration, groups)
    scores = prunus.score(groups, statistics, criterion)
    before = copy.deepcopy(lenet.state_dict())
    curves = measure_curves(
        lenet, groups, scores, statistics, digits.validation, compensate="none", ridge=1e-3
    )
    assert set(curves) == {group.name for group in groups.values()}
    for name, tensor in lenet.state_dict().items():
        assert torch.equal(tensor, before[name])
    for group in groups.values():
        gone = scores[group.name].order[: group.units // 2].tolist()
        halved = mask_(copy.deepcopy(lenet), plan_units(groups, {group.name: gone}))
        rise = cross_entropy(halved, digits) - cross_entropy(lenet, digits)
        predicted = sum(float(scores[group.name].costs[unit]) for unit in gone)
        if rise > 1e-6:
            assert curves[group.name] == pytest.approx(rise / predicted, rel=1e-3)
        assert curves[group.name] > 0


def test_a_group_that_is_predicted_to_be_free_has_the_usual_factor(
    lenet: nn.Module, digits: DataSplits
) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    statistics = prunus.collect(lenet, digits.calibration, groups)
    scores = prunus.score(groups, statistics, "l1")
    scores["fc2"].costs[:] = 0
    curves = measure_curves(
        lenet, groups, scores, statistics, digits.validation, compensate="patch", ridge=1e-3
    )
    assert curves["fc2"] == curves["fc1"]


def test_dp_measures_journals_and_meets_its_budget(run: Run) -> None:
    _, _, journal = run("macs=30%", quick(allocation="dp", iterations=1))
    cut = journal.record.find("prune", iteration=1)
    assert set(cut["curves"]) == {"fc1", "fc2"}
    assert cut["macs"] <= 0.3 * journal.record.find("iteration", iteration=0)["macs"]
    _, _, journal = run("macs=30%", quick(iterations=1))
    assert journal.record.find("prune", iteration=1)["curves"] is None
