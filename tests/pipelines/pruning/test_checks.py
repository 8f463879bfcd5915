"""Settings: what goes together, old files, and classes that are kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import prunus
from prunus.core import read_yaml, to_yaml
from prunus.core.errors import BudgetError, ConfigError
from prunus.criteria import best_units
from prunus.data import DataSplits
from prunus.pipelines import PruneConfig, RunConfig
from prunus.pipelines.pruning.checks import checked
from prunus.pipelines.pruning.protect import still_protected
from prunus.plan import plan_units
from prunus.runs.session import spread
from tests.pipelines.conftest import EXAMPLE, Run, quick

NAMES = ("cat", "dog", "3")


def test_classes_are_named_or_numbered() -> None:
    config = PruneConfig(keep_class=("dog", 0, "3", "1"))
    assert checked(config, NAMES).keep_class == (0, 1, 2)
    assert checked(PruneConfig(keep_class=("3",))).keep_class == (3,)
    for wrong in ("horse", 3, -1):
        with pytest.raises(ConfigError, match="an index or one of cat, dog, 3"):
            checked(PruneConfig(keep_class=(wrong,)), NAMES)
    with pytest.raises(ConfigError, match=r"an index, e\.g\. 3"):
        checked(PruneConfig(keep_class=("cat",)))


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"prune\.parents"):
        checked(PruneConfig(criterion="granular"))
    with pytest.raises(ConfigError, match="each of the 3 classes"):
        checked(PruneConfig(parents=((0, 1),)), NAMES)
    with pytest.raises(ConfigError, match="sampling"):
        checked(PruneConfig(sampling="pool"))


def test_a_configuration_of_an_older_version_reads_with_todays_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    old = {"criterion": "stacked", "allocation": "global", "iterations": 4, "ridge": 0.001}
    run = {"version": 1, "model": "lenet5", "data": "digits", "budget": "macs=50%", "prune": old}
    path.write_text(yaml.safe_dump(run))
    config = read_yaml(RunConfig, path)
    assert config.prune == PruneConfig(iterations=4)
    path.write_text(to_yaml(config))
    assert read_yaml(RunConfig, path) == config
    path.write_text(yaml.safe_dump({**run, "prune": {**old, "speed": 3}}))
    with pytest.raises(ConfigError, match=r"prune\.speed"):
        read_yaml(RunConfig, path)


def test_units_of_a_kept_class_stay(run: Run, lenet: nn.Module, digits: DataSplits) -> None:
    config = quick(keep_class=(3, 5), keep_share=0.2, iterations=3, criterion="random")
    _, plan, journal = run("params=50%", config)
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    statistics = prunus.collect(lenet, digits.calibration, groups, sampling="pixel")
    row = journal.record.find("protected")
    assert row is not None
    assert row["classes"] == [3, 5]
    for name, units in best_units(groups, statistics, [3, 5], 0.2).items():
        assert row["groups"][name] == units.tolist()
        assert not set(units.tolist()) & set(plan.groups[name].removed)
    assert journal.record.find("iteration", iteration=3)["params"] <= 0.5 * groups.total_params


def test_a_budget_below_what_is_kept_is_said_before_the_first_cut(run: Run) -> None:
    with pytest.raises(BudgetError, match="the protected units"):
        run("params=1%", quick(keep_class=tuple(range(10)), keep_share=0.3))


def test_batches_are_spread_over_a_loader() -> None:
    batches = [(torch.full((4, 1), float(i)), torch.zeros(4)) for i in range(10)]
    for loader in (batches, Endless(batches)):
        assert [int(x[0]) for x, _ in spread(loader, 12)] == [0, 4, 7]
        assert len(spread(loader, 13)) == 4
        assert len(spread(loader, 1000)) == 10
    assert spread([], 5) == []


class Endless:
    """Batches that can be read again and again, and not counted."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.batches)


def test_protected_units_are_followed_through_a_plan(lenet: nn.Module) -> None:
    groups = prunus.find_groups(lenet, EXAMPLE, inputs=False)
    plan = plan_units(groups, {"fc2": [0, 2, 3]})
    found = still_protected({"fc2": [1, 5], "gone": [2]}, plan, groups)
    assert found == {"fc1": [], "fc2": [0, 2]}
