"""Torch-Pruning's importances in Prunus, and the criteria of Prunus in Torch-Pruning's pruners."""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError, UnknownNameError
from prunus.criteria import score
from prunus.graph import Groups, find_groups
from prunus.integrations.torch_pruning import (
    DiscriminantImportance,
    TorchPruningCriterion,
    torch_pruning_group,
)
from prunus.models import build_model
from prunus.plan import plan_units
from prunus.statistics import Statistics, collect
from prunus.surgery import replay_
from tests.conftest import random_plan, randomise_norms_
from tests.graph.nets import NETS, batches, build, images


def empty(groups: Groups) -> Statistics:
    return Statistics([{}], groups, 0)


def backward(model: nn.Module) -> None:
    x, y = batches(1)[0]
    F.cross_entropy(model(x), y).backward()


def theirs(model: nn.Module, root: str) -> Any:
    """Return the group that Torch-Pruning itself makes, over the same modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, images(1), verbose=False)
    module = model.get_submodule(root)
    prune = graph.get_pruner_of_module(module).prune_out_channels
    return graph.get_pruning_group(module, prune, list(range(graph.get_out_channels(module))))


MIXING = (nn.Conv2d, nn.Linear)
IMPORTANCES = {
    "magnitude": lambda: tp.importance.MagnitudeImportance(p=2),
    "l1 of the first layer": lambda: tp.importance.MagnitudeImportance(
        p=1, group_reduction="first", normalizer=None
    ),
    "largest": lambda: tp.importance.MagnitudeImportance(group_reduction="max"),
    "taylor": tp.importance.TaylorImportance,
    "bn scale": tp.importance.BNScaleImportance,
    "fpgm": tp.importance.FPGMImportance,
    "lamp": tp.importance.LAMPImportance,
    "random": tp.importance.RandomImportance,
}


@pytest.mark.parametrize("net", ["plain", "residual", "concat", "depthwise", "flatten", "mlp"])
@pytest.mark.parametrize("name", IMPORTANCES)
def test_an_importance_says_here_what_it_says_there(name: str, net: str) -> None:
    model = build(net)
    backward(model)
    groups = find_groups(model, images(1))
    scores = score(groups, empty(groups), TorchPruningCriterion(IMPORTANCES[name]()))
    compared = 0
    for group in groups.values():
        if group.kind in ("inputs", "features"):
            continue
        torch.manual_seed(0)
        expected = IMPORTANCES[name]()(theirs(model, group.name))
        if expected is None:
            assert "supports none of its layers" in scores.skipped[group.name]
            continue
        compared += 1
        if name == "random":
            assert scores[group.name].values.shape == expected.shape
        else:
            expected = expected.detach().double()
            torch.testing.assert_close(scores[group.name].values, expected, rtol=1e-6, atol=1e-12)
    assert compared or name == "bn scale"


@pytest.mark.parametrize("net", NETS)
def test_groups_are_those_of_torch_pruning(net: str) -> None:
    """The same channels of the same layers, with the same root channels."""

    def entries(made: Any, model: nn.Module) -> dict[tuple[str, str], set[tuple[int, int]]]:
        names = {m: n for n, m in model.named_modules()}
        found: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for item in made:
            if item.dep.target.module in names:
                key = names[item.dep.target.module], item.dep.handler.__name__
                found.setdefault(key, set()).update(zip(item.idxs, item.root_idxs, strict=True))
        return found

    model = build(net)
    groups = find_groups(model, images(1))
    for group in groups.values():
        if group.kind in ("inputs", "features"):
            continue
        ours = entries(torch_pruning_group(groups, group), model)
        whole = entries(theirs(model, group.name), model)
        shared = {n for n, m in model.named_modules() if isinstance(m, nn.PReLU)}
        assert ours == {
            k: v for k, v in whole.items() if k[0] not in shared or k in ours
        }  # a PReLU of one slope has no channels


def test_units_that_only_their_consumer_can_drop() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    rule = TorchPruningCriterion(tp.importance.MagnitudeImportance(normalizer=None))
    values = score(groups, empty(groups), rule)["fc1.inputs"].values
    torch.testing.assert_close(values.float(), model.fc1.weight.detach().square().sum(0))


def test_a_layer_that_selects_its_inputs() -> None:
    """After a cut, fc1 reads some of the flattened positions only."""
    model = build("flatten")
    groups = find_groups(model, images(1))
    replay_(model, random_plan(groups, seed=1))
    groups = find_groups(model, images(1))
    rule = TorchPruningCriterion(tp.importance.MagnitudeImportance(normalizer=None))
    scores = score(groups, empty(groups), rule)
    columns = model.fc1.weight.detach().square().sum(0)
    torch.testing.assert_close(scores["fc1.features"].values.float(), columns)
    position = torch.zeros(model.fc1.incoming)
    position[model.fc1.index.long()] = columns
    made = model.conv1.weight.detach().square().flatten(1).sum(1)
    expected = (made + position.view(len(made), -1).sum(1)) / 2
    torch.testing.assert_close(scores["conv1"].values.float(), expected)


def test_grouped_convolutions_average_over_their_groups() -> None:
    model = build("grouped")
    groups = find_groups(model, images(1))
    rule = TorchPruningCriterion(
        tp.importance.MagnitudeImportance(group_reduction="first", normalizer=None)
    )
    norms = model.conv2.weight.detach().square().flatten(1).sum(1)
    values = score(groups, empty(groups), rule)["conv2"].values
    torch.testing.assert_close(values.float(), norms.view(2, 6).mean(0))


def test_negative_importances_start_at_zero() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    rule = TorchPruningCriterion(tp.importance.MagnitudeImportance(normalizer="gaussian"))
    plain = TorchPruningCriterion(tp.importance.MagnitudeImportance())
    got, expected = (score(groups, empty(groups), r)["conv1"] for r in (rule, plain))
    assert got.values.min() == 0
    assert torch.equal(got.order, expected.order)


def test_an_importance_that_fails_is_named() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    with pytest.raises(ConfigError, match=r"TaylorImportance failed on group 'conv1'.*backward"):
        score(groups, empty(groups), TorchPruningCriterion(tp.importance.TaylorImportance()))
    with pytest.raises(ConfigError, match="expected 8 finite numbers"):
        score(
            groups, empty(groups), TorchPruningCriterion(lambda group: torch.full((8,), torch.nan))
        )
    with pytest.raises(ConfigError, match="expected 8 finite numbers"):
        score(groups, empty(groups), TorchPruningCriterion(lambda group: torch.ones(3)))


def pruned(model: nn.Module, importance: Any, example: Tensor, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(model, example, importance, **options)
        for _ in range(options.get("iterative_steps", 1)):
            pruner.step()
    return model


@pytest.mark.parametrize("criterion", ["stacked", "di", "l1", "taylor", "dcp"])
def test_torch_pruning_cuts_what_our_plan_cuts(criterion: str) -> None:
    """Half of every layer of a chain; the consumers' weights tell which channels went."""
    model = build("plain")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(4, 8), groups, blocks=1, gradients=True)
    scores = score(groups, statistics, criterion)
    removed = {g.name: scores[g.name].order[: g.units // 2].tolist() for g in groups.values()}
    ours = copy.deepcopy(model)
    replay_(ours, plan_units(find_groups(ours, images(1)), removed))
    importance = DiscriminantImportance(model, batches(4, 8), images(1), criterion)
    pruned(model, importance, images(1), pruning_ratio=0.5)
    assert set(importance.skipped) == {"head"}
    state = ours.state_dict()
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("criterion", ["stacked", "bn_scale"])
def test_a_pruned_network_still_runs(criterion: str, net: str) -> None:
    model = build(net)
    importance = DiscriminantImportance(model, batches(4, 8), images(1), criterion)
    widths = {n: len(m.weight) for n, m in model.named_modules() if isinstance(m, MIXING)}
    groups = find_groups(model, images(1))
    scored = score(groups, collect(model, batches(4, 8), groups, blocks=1), criterion).groups
    pruned(model, importance, images(1), pruning_ratio=0.5)
    assert model(images(2)).shape == (2, 4)
    for name, width in widths.items():
        left = len(model.get_submodule(name).weight)
        makers = {
            m.module
            for g in groups.values()
            if g.name in scored and g.name not in importance.skipped
            for m in g.producers
        }
        assert (left < width) == (name in makers), name
    assert any("the network's outputs" in reason for reason in importance.skipped.values())


def test_ties_are_broken_by_the_order() -> None:
    """Greedy costs made rising have equal values in a row."""
    model = build("residual")
    groups = find_groups(model, images(1))
    scores = score(groups, collect(model, batches(4, 8), groups, blocks=1), "stacked")
    importance = DiscriminantImportance(model, batches(4, 8), images(1))
    for group in groups.values():
        values = importance(torch_pruning_group(groups, group))
        assert values is not None
        assert torch.equal(torch.argsort(values), scores[group.name].order)
        torch.testing.assert_close(values, scores[group.name].values, rtol=1e-6, atol=1e-8)


def test_values_that_are_not_comparable_are_divided_by_their_mean() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    importance = DiscriminantImportance(model, batches(2), images(1), "l1")
    for group in groups.values():
        values = importance(torch_pruning_group(groups, group))
        assert values is not None
        assert float(values.mean()) == pytest.approx(1)


class Counted(list[tuple[Tensor, Tensor]]):
    """A loader that counts how often it is read."""

    read = 0

    def __iter__(self) -> Any:
        self.read += 1
        return super().__iter__()


def test_scores_are_made_anew_when_the_network_has_changed() -> None:
    model, loader = build("plain"), Counted(batches(4, 8))
    importance = DiscriminantImportance(model, loader, images(1))
    pruned(model, importance, images(1), pruning_ratio=0.5, iterative_steps=3)
    assert loader.read == 3
    assert (model.conv1.out_channels, model.conv2.out_channels) == (4, 3)
    groups = find_groups(model, images(1))
    made = torch_pruning_group(groups, groups["conv1"])
    before = importance(made)
    assert loader.read == 4
    assert torch.equal(importance(made), before)  # type: ignore[arg-type]
    assert loader.read == 4
    model.conv2.weight.data[:, 2] = 0  # no version counter sees this
    after = importance(made)
    assert loader.read == 5
    assert after is not None
    assert int(after.argmin()) == 2


def test_scores_that_break_off_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("plain")
    importance = DiscriminantImportance(model, batches(4, 8), images(1), "l1")
    group = torch_pruning_group(groups := find_groups(model, images(1)), groups["conv1"])

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("prunus.integrations.torch_pruning._strictly_rising", interrupted)
        with pytest.raises(KeyboardInterrupt):
            importance(group)
    assert importance(group) is not None and not importance.skipped


def test_a_criterion_that_looks_at_no_data_reads_none() -> None:
    model, loader = build("plain"), Counted(batches(2))
    pruned(model, DiscriminantImportance(model, loader, images(1), "l1"), images(1))
    assert loader.read == 0


def test_resnet20_at_half_width_globally_and_locally() -> None:
    torch.manual_seed(0)
    dense = randomise_norms_(build_model("resnet20", num_classes=4, input_shape=(3, 10, 10)))
    dense.eval()
    for options in ({"pruning_ratio": 0.5}, {"pruning_ratio": 0.3, "global_pruning": True}):
        model = copy.deepcopy(dense)
        importance = DiscriminantImportance(
            model, batches(2, 8), images(1), collecting={"sampling": "pixel"}
        )
        pruned(model, importance, images(1), ignored_layers=[model.linear], **options)
        assert model(images(2)).shape == (2, 4)
        assert set(importance.skipped) == {"conv1"}
        assert "padded" in importance.skipped["conv1"]  # the stream, by option A's shortcuts
        if "global_pruning" not in options:
            inner = [m.conv1.out_channels for m in (*model.layer1, *model.layer2, *model.layer3)]
            assert inner == [8] * 3 + [16] * 3 + [32] * 3


def test_wrong_use_is_named() -> None:
    model = build("plain")
    with pytest.raises(UnknownNameError, match="stacked"):
        DiscriminantImportance(model, batches(1), images(1), "staked")
    with pytest.raises(ConfigError, match=r"\['mu'\]"):
        rule = TorchPruningCriterion(tp.importance.MagnitudeImportance())
        DiscriminantImportance(model, batches(1), images(1), rule, mu=1.0)
    importance = DiscriminantImportance(model, batches(1), images(1), "l1")
    with pytest.raises(ConfigError, match="pass the same network to both"):
        importance(theirs(build("plain"), "conv1"))
