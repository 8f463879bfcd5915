"""Pains 5, 6 and 12: accuracy collapses, nothing gets faster, a ratio that means nothing."""

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import BudgetError
from prunus.evaluation import accuracy, count_bytes, count_macs, count_params
from prunus.pipelines.pruning.latency import costs_of
from prunus.plan import least_costs
from tests.pains.conftest import ONE_SHOT, Digits
from tests.pains.rival import torch_pruning_, widths


@pytest.fixture(scope="module")
def theirs(digits: Digits) -> nn.Module:
    model = copy.deepcopy(digits.dense)
    return torch_pruning_(model, digits.example, ignored_layers=[model.head])


# 5: accuracy collapses ---------------------------------------------------------------------


def test_5_a_cut_of_torch_pruning_loses_the_task(digits: Digits, theirs: nn.Module) -> None:
    assert accuracy(digits.dense, digits.data.validation) > 0.95
    assert accuracy(theirs, digits.data.validation) < 0.5


def test_5_ours_at_the_same_macs_is_repaired_without_labels(
    digits: Digits, theirs: nn.Module
) -> None:
    share = count_macs(theirs, digits.example) / count_macs(digits.dense, digits.example)
    model = copy.deepcopy(digits.dense)
    groups = prunus.find_groups(model, digits.example)
    statistics = prunus.collect(model, digits.data.calibration, groups)
    scores = prunus.score(groups, statistics, intervals=True)
    budgets = (share + 0.4, share)
    plans = [prunus.make_plan(groups, scores, f"macs={100 * b:.3f}%") for b in budgets]
    mild, hard = (prunus.predict_loss(scores, plan, groups) for plan in plans)
    assert mild.high < hard.low  # it is known before the cut that the second costs more
    images = [(x, torch.zeros(len(x), dtype=torch.long)) for x, _ in digits.data.calibration]
    receipt = prunus.apply_(model, plans[1], loader=images)  # joint, by default
    assert count_macs(model, digits.example) <= share * count_macs(digits.dense, digits.example)
    assert {r.module for r in receipt.repairs if not r.reason} == {"conv2", "conv3", "head"}
    kept = accuracy(model, digits.data.validation)
    assert kept > accuracy(digits.dense, digits.data.validation) - 0.05
    norms = copy.deepcopy(digits.dense)  # without the joint repair BatchNorm is estimated anew
    receipt = prunus.apply_(norms, plans[1], loader=images, compensate="none")
    assert receipt.batchnorms == 3
    bare = copy.deepcopy(digits.dense)
    prunus.apply_(bare, plans[1])
    repaired, without = (accuracy(m, digits.data.validation) for m in (norms, bare))
    assert kept > repaired > without


# 6: no speed-up ----------------------------------------------------------------------------


def test_6_torch_pruning_leaves_odd_widths_and_no_figure(digits: Digits) -> None:
    model = copy.deepcopy(digits.dense)
    torch_pruning_(model, digits.example, 0.3, ignored_layers=[model.head])  # returns nothing
    assert widths(model) == {"conv1": 11, "conv2": 22, "conv3": 22, "head": 10}


def test_6_every_report_has_measured_latency_and_round_widths(digits: Digits) -> None:
    made = widths(digits.pruned)
    assert all(made[name] % 4 == 0 for name in ("conv1", "conv2", "conv3"))
    row = digits.report.record.find("timing", runtime="eager")
    assert row is not None
    for batch in ("1", "64"):
        found = row["batches"][batch]
        for what in ("dense", "pruned", "speedup"):
            assert 0 < found[what]["low"] <= found[what]["median"] <= found[what]["high"]
    assert "batch 64" in str(digits.report)
    assert "batch 64" in digits.report.to_html()


def test_6_milliseconds_are_a_budget(digits: Digits) -> None:
    groups = prunus.find_groups(digits.dense, digits.example)
    dense = copy.deepcopy(digits.dense)
    table = prunus.measure_latency_table(dense, groups, digits.example, repeats=3)
    whole, least = costs_of(groups, table)["ms"], least_costs(groups, table=table)["ms"]
    limit = (whole + least) / 2
    scores = prunus.score(groups, prunus.collect(dense, digits.data.calibration, groups))
    plan = prunus.make_plan(groups, scores, f"ms={limit:.6f}", table=table)
    prunus.apply_(dense, plan)
    left = costs_of(prunus.find_groups(dense, digits.example), table)["ms"]
    assert left <= limit + 1e-6
    with pytest.raises(BudgetError, match="ms"):
        prunus.make_plan(groups, scores, f"ms={0.5 * least:.6f}", table=table)


# 12: what a ratio means --------------------------------------------------------------------


def test_12_half_is_a_quarter_in_torch_pruning(digits: Digits, theirs: nn.Module) -> None:
    """Half of the channels is about a quarter of the MACs and of the parameters."""
    dense = digits.dense
    macs = count_macs(theirs, digits.example) / count_macs(dense, digits.example)
    assert 0.22 < macs < 0.3
    assert 0.22 < count_params(theirs) / count_params(dense) < 0.3


@pytest.mark.parametrize("currency", ["macs", "params", "bytes"])
def test_12_a_budget_is_what_is_left_in_its_own_currency(digits: Digits, currency: str) -> None:
    model = copy.deepcopy(digits.dense)
    groups = prunus.find_groups(model, digits.example)
    scores = prunus.score(groups, prunus.collect(model, digits.data.calibration, groups))
    prunus.apply_(model, prunus.make_plan(groups, scores, f"{currency}=50%"))
    count = {
        "macs": lambda m: count_macs(m, digits.example),
        "params": count_params,
        "bytes": count_bytes,
    }[currency]
    assert 0.45 < count(model) / count(digits.dense) <= 0.5


def test_12_achieved_values_come_back(digits: Digits) -> None:
    row = digits.report.record.find("result")
    assert row is not None
    assert row["pruned"]["macs"] == count_macs(digits.pruned, digits.example)
    assert row["pruned"]["macs"] <= 0.3 * row["dense"]["macs"]
    assert row["pruned"]["params"] == count_params(digits.pruned)
    assert row["pruned"]["bytes"] == count_bytes(digits.pruned)
    assert row["pruned"]["validation_accuracy"] == accuracy(digits.pruned, digits.data.validation)


def test_12_a_budget_out_of_reach_is_refused_with_the_least(digits: Digits) -> None:
    with pytest.raises(BudgetError, match=r"macs=\d"):
        prunus.prune(digits.dense, digits.data.calibration, "macs=10", config=ONE_SHOT)
