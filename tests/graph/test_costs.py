"""Predicted costs against the network that is actually cut."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunus.evaluation import count_bytes
from prunus.graph import SelectLinear, find_groups
from prunus.graph.costs import find_layers
from prunus.graph.probe import probe
from prunus.models import build_model
from prunus.plan.cost_tracker import CostTracker
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import NETS, SHAPE, build


def real_cost(model: nn.Module, x: Tensor) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "macs": counter.get_total_flops() // (2 * len(x)),
        "bytes": count_bytes(model),
    }


def dense_cost(groups) -> dict[str, int]:
    return {
        "params": groups.total_params,
        "macs": groups.total_macs,
        "bytes": groups.total_bytes,
    }


def struck(groups, plan) -> dict[str, int]:
    """Return the tracker's totals after the units of `plan` are removed, group by group."""
    tracker = CostTracker(groups)
    for group in groups.values():
        if group.name in plan.groups:
            units = list(plan.groups[group.name].removed)
            before = dict(tracker.totals)
            saved = tracker.saving(group, units)
            assert tracker.totals == before
            tracker.remove(group, units)
            assert tracker.totals == {c: before[c] - saved[c] for c in before}
    return tracker.totals


NETWORKS = {
    **dict.fromkeys(NETS, SHAPE),
    "lenet5": (1, 28, 28),
    "lenet300": (1, 28, 28),
    "resnet20": (3, 16, 16),
    "torchvision:mobilenet_v2": (3, 32, 32),
    "torchvision:resnext50_32x4d": (3, 32, 32),
}


@pytest.mark.parametrize("net", NETWORKS)
def test_predicted_cost_is_real(net: str) -> None:
    shape = NETWORKS[net]
    model = (
        build(net) if net in NETS else build_model(net, num_classes=10, input_shape=shape).eval()
    )
    x = torch.randn(2, *shape)
    groups = find_groups(model, x)
    assert dense_cost(groups) == real_cost(model, x)
    for seed in range(2):
        plan = random_plan(groups, seed)
        cut = replay_(copy.deepcopy(model), plan)
        assert struck(groups, plan) == real_cost(cut, x)
        again = find_groups(cut, x)
        assert dense_cost(again) == real_cost(cut, x)


def test_a_second_cut_of_selected_features_is_counted_once() -> None:
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28)).eval()
    x = torch.randn(1, 1, 28, 28)
    replay_(model, random_plan(find_groups(model, x), 0))
    assert isinstance(model.get_submodule("fc1"), SelectLinear)
    groups = find_groups(model, x)
    for seed in range(3):
        plan = random_plan(groups, seed)
        assert struck(groups, plan) == real_cost(replay_(copy.deepcopy(model), plan), x)


@pytest.mark.parametrize(
    ("spec", "shape", "params", "macs"),
    [
        ("lenet5", (1, 28, 28), 431_080, 2_293_000),
        ("lenet300", (1, 28, 28), 266_610, 266_200),
        ("resnet56", (3, 32, 32), 853_018, 125_485_696),
    ],
)
def test_exact_counts(spec: str, shape: tuple[int, int, int], params: int, macs: int) -> None:
    model = build_model(spec, num_classes=10, input_shape=shape).eval()
    groups = find_groups(model, torch.randn(1, *shape))
    assert (groups.total_params, groups.total_macs) == (params, macs)
    assert real_cost(model, torch.randn(1, *shape))["macs"] == macs


def test_a_layer_is_never_left_without_anything_to_read() -> None:
    groups = find_groups(build("flatten"), torch.randn(1, *SHAPE))
    tracker = CostTracker(groups)
    tracker.remove(groups["fc1.features"], range(1, 80))  # position 0, of channel 0, is left
    tracker.remove(groups["conv1"], range(4))  # would leave channel 4 alone, which is not read
    assert tracker.left["conv1"].tolist() == [True, False, False, False, True]
    assert (tracker.arriving["fc1"] & tracker.reading["fc1"]).sum() == 1


@pytest.mark.parametrize("net", ["plain", "concat", "depthwise", "flatten", "token", "prelu"])
def test_bytes_by_element_size(net: str) -> None:
    """Weights of 8 bytes, running statistics of 4."""
    model = build(net).double()
    x = torch.randn(2, *SHAPE).double()
    for seed in range(2):
        groups = find_groups(model, x)
        heavy = copy.deepcopy(model)
        for module in heavy.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()  # never run: only counted
        groups_of_both = dataclasses.replace(
            groups,
            layers=find_layers(heavy, heavy, probe(copy.deepcopy(model), (x,))),
            total_bytes=count_bytes(heavy),
        )
        plan = random_plan(groups, seed)
        assert struck(groups, plan)["bytes"] == count_bytes(replay_(copy.deepcopy(model), plan))
        assert struck(groups_of_both, plan)["bytes"] == count_bytes(replay_(heavy, plan))


@pytest.mark.parametrize("net", ["plain", "residual", "flatten", "mlp", "grouped"])
def test_what_is_put_back_costs_again(net: str) -> None:
    groups = find_groups(build(net), torch.randn(1, *SHAPE))
    tracker = CostTracker(groups)
    history = []
    for group in groups.values():
        history.append((group, dict(tracker.totals)))
        tracker.remove(group, range(0, group.units - group.least, 2))
    for group, before in reversed(history):
        tracker.put_back(group, range(group.units))
        assert tracker.totals == before
    assert tracker.totals == CostTracker(groups).totals
