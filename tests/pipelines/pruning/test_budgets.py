"""Budgets in bytes and milliseconds, and what is journalled on the way to them."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import BudgetError
from prunus.data import DataSplits
from prunus.evaluation import count_bytes, measure_latency_table
from prunus.pipelines import Journal
from prunus.pipelines.pruning.latency import costs_of, keep_table, table_for
from prunus.plan import Budget
from tests.pipelines.conftest import EXAMPLE, Run, quick


def test_bytes_are_met_by_equal_shares(run: Run, lenet: nn.Module) -> None:
    model, _, journal = run("bytes=20%", quick())
    whole = journal.record.find("iteration", iteration=0)["bytes"]
    first, second = (row["target"] for row in journal.record.all("prune"))
    assert first == f"bytes ≤ {round(whole * 0.2**0.5):,}"
    assert second == f"bytes ≤ {int(0.2 * whole):,}"
    reached = journal.record.find("iteration", iteration=2)["bytes"]
    assert 0.15 * whole < reached <= 0.2 * whole
    assert count_bytes(model) < 0.25 * count_bytes(lenet)


def test_milliseconds_are_met_by_the_table(run: Run, lenet: nn.Module) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    table = measure_latency_table(lenet, groups, EXAMPLE, batch=32, repeats=5)
    dense = costs_of(groups, table)["ms"]
    model, _, journal = run("ms=90%, params=50%", quick(), table=table)
    small = prunus.find_groups(model, EXAMPLE, inputs=False)
    assert costs_of(small, table)["ms"] <= 0.9 * dense
    assert small.total_params <= 0.5 * groups.total_params
    cuts = journal.record.all("prune")
    assert cuts[0]["target"].startswith(f"ms ≤ {dense * 0.9**0.5:.4g}, params ≤ ")
    assert cuts[-1]["ms"] == costs_of(small, table)["ms"]


def test_milliseconds_without_a_table(run: Run) -> None:
    with pytest.raises(BudgetError, match="latency table"):
        run("ms=60%", quick())


def test_a_table_is_measured_once_a_folder(lenet: nn.Module, tmp_path: Path) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE)
    budget, config = Budget.parse("ms=60%"), quick(latency_batch=2)
    table = table_for(budget, lenet, groups, EXAMPLE, config, folder=tmp_path)
    assert table is not None
    assert table.batch == 2
    journal = Journal(tmp_path)
    keep_table(table, groups, journal)
    assert table_for(budget, lenet, groups, EXAMPLE, config, folder=tmp_path) == table
    row = journal.record.find("latency")
    assert row is not None
    assert row["ms"] == costs_of(groups, table)["ms"]
    assert table_for(Budget.parse("macs=50%"), lenet, groups, EXAMPLE, config) is None


def test_the_python_call_measures_and_says_both(lenet: nn.Module, digits: DataSplits) -> None:
    none = prunus.TrainConfig(epochs=0)
    config = quick(iterations=1, finetune=none, final=none, latency_batch=16)
    _, report = prunus.prune(
        lenet, digits.calibration, "ms=90%", test=digits.test, config=config, device="cpu"
    )
    result = report.record.find("result")
    latency = report.record.find("latency")
    assert result is not None
    assert latency is not None
    assert result["dense"]["predicted_ms"] == latency["ms"]
    assert result["pruned"]["predicted_ms"] <= 0.9 * latency["ms"]
    timing = report.record.find("timing")
    assert timing is not None
    assert (timing["runtime"], set(timing["batches"])) == ("eager", {"1", "16", "64"})
    chosen = report.record.find("round_to")
    assert chosen is not None
    assert chosen["reason"] in report.to_html()
    assert report.config.round_to is None
    assert "fc1" in report.to_html().partition("The plan")[2]


def test_a_loss_is_predicted_with_its_interval(run: Run) -> None:
    _, _, journal = run("params=50%", quick(intervals=True))
    for cut in journal.record.all("prune"):
        predicted = cut["predicted"]
        assert 0 <= predicted["low"] < predicted["total"] < predicted["high"]
        assert predicted["comparable"] is True
        assert "output energy" in predicted["unit"]


@pytest.mark.parametrize("criterion", ["taylor", "random"])
def test_criteria_without_intervals_still_prune(run: Run, criterion: str) -> None:
    _, _, journal = run("params=50%", quick(intervals=True, criterion=criterion, iterations=1))
    predicted = journal.record.find("prune", iteration=1)["predicted"]
    assert predicted["total"] > 0
    assert (predicted["low"] is None) == (criterion == "taylor")


def test_what_layers_explain_is_told_of_every_network(run: Run) -> None:
    _, _, journal = run("params=50%", quick())
    rows = journal.record.all("information")
    assert [(row["iteration"], row.get("final")) for row in rows] == [
        (0, None),
        (1, None),
        (2, True),
    ]
    for row in rows:
        assert [layer["module"] for layer in row["layers"]] == ["fc1", "fc2", "fc3"]
        for layer in row["layers"]:
            assert 0 <= layer["low"] <= layer["share"] <= layer["high"] <= 1
            assert math.isfinite(layer["gain"])
            assert set(layer) == {"module", "features", "share", "low", "high", "gain"}
    json.dumps(rows, allow_nan=False)


def test_widths_are_rounded_and_repair_can_be_chosen(run: Run) -> None:
    for compensate in ("none", "bias", "patch", "merge"):
        config = quick(round_to=4, compensate=compensate, iterations=1, sampling="pixel")
        model, _, journal = run("params=40%", config)
        widths = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][:2]
        assert all(width % 4 == 0 for width in widths), (compensate, widths)
        cut = journal.record.find("prune", iteration=1)
        assert bool(cut["compensated"]) == (compensate != "none")


def test_parents_reach_the_local_teachers_and_the_criterion(run: Run) -> None:
    config = quick(
        criterion="granular",
        parents=((0, 0, 0, 0, 0, 1, 1, 1, 1, 1),),
        finetune=prunus.TrainConfig(epochs=1, local=0.1),
        iterations=1,
    )
    _, _, journal = run("params=50%", config)
    epoch = journal.record.find("fit", phase="iteration")["epochs"][0]
    assert 0 < epoch["local_information"] < 1
    assert "multi-granularity" in journal.record.find("prune")["predicted"]["unit"]


def test_a_floor_above_the_dense_network_is_said_before_anything_is_cut(run: Run) -> None:
    for budget, config in (
        ("accuracy>=99.99%", quick()),
        ("params=50%", quick(min_accuracy=0.9999)),
    ):
        with pytest.raises(BudgetError, match=r"dense network's .* below the floor of 99\.99%"):
            run(budget, config)


def test_a_cut_is_the_same_for_the_same_seed(run: Run) -> None:
    models = [run("bytes=30%", quick(iterations=1))[0] for _ in range(2)]
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(one, other)
