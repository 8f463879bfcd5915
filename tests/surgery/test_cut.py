"""Replaying a plan: checked as a whole first, and nothing but the cut changes."""

import copy

import pytest
import torch
from torch import nn

from prunus.core.errors import PlanError
from prunus.graph import SelectLinear, find_groups
from prunus.plan import Edit, Plan, plan_units
from prunus.statistics import collect
from prunus.surgery import apply_, replay_
from tests.conftest import random_plan
from tests.graph.nets import batches, build, images

GOOD = {"out": Edit(8, (1, 2))}


@pytest.mark.parametrize(
    ("net", "modules", "message"),
    [
        ("plain", {"conv1": GOOD, "conv9": GOOD}, "it has no module 'conv9'"),
        (
            "plain",
            {"conv1": GOOD, "conv2": {"in": Edit(9, (1,))}},
            "'conv2' has 8 channels on its in",
        ),
        ("plain", {"conv1": GOOD, "conv2": {"up": Edit(8, (1,))}}, "'conv2'.*no axis 'up'"),
        ("plain", {"conv1": GOOD, "conv2": {"select": Edit(8, (1,))}}, "no axis 'select'"),
        ("plain", {"conv1": GOOD, "bn1": {"in": Edit(8, (1,))}}, "'bn1'.*no axis 'in'"),
        (
            "plain",
            {"conv1": GOOD, "conv2": {"in": Edit(8, (8,))}},
            "'conv2' twice, or unknown ones",
        ),
        ("plain", {"conv1": GOOD, "conv2": {"in": Edit(8, (1, 1))}}, "'conv2' twice"),
        ("plain", {"conv1": GOOD, "conv2": {"in": Edit(8, tuple(range(8)))}}, "leaves no channel"),
        ("plain", {"conv1": GOOD, "": {"out": Edit(8, (1,))}}, "no rule to cut"),
        (
            "grouped",
            {"conv1": GOOD, "conv2": {"in": Edit(8, (0, 1))}},
            "2 groups of 'conv2' unevenly",
        ),
        (
            "flatten",
            {
                "conv1": {"out": Edit(5, (0,))},
                "fc1": {"in": Edit(80, tuple(range(16))), "select": Edit(80, tuple(range(16, 80)))},
            },
            "leaves 'fc1' nothing to read",
        ),
    ],
)
def test_a_bad_plan_touches_nothing(
    net: str, modules: dict[str, dict[str, Edit]], message: str
) -> None:
    model = build(net)
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(1), groups)
    with pytest.raises(PlanError, match=message):
        replay_(model, Plan({}, modules))
    with pytest.raises(PlanError, match=message):
        apply_(model, Plan({}, modules), statistics)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_replaying_twice_is_refused() -> None:
    model = build("plain")
    plan = random_plan(find_groups(model, images(1)), seed=1)
    replay_(model, plan)
    with pytest.raises(PlanError, match="before any other cut"):
        replay_(model, plan)


@pytest.mark.parametrize(
    "net", ["plain", "residual", "depthwise", "transposed", "flatten", "token"]
)
def test_flags_types_and_bits_survive(net: str) -> None:
    model = build(net).double().train()
    names = dict(model.named_parameters())
    for i, parameter in enumerate(names.values()):
        parameter.requires_grad_(i % 2 == 0)
    next(iter(model.children())).eval()
    flags = {n: p.requires_grad for n, p in names.items()}
    modes = {n: m.training for n, m in model.named_modules()}
    values = {n: set(p.detach().flatten().tolist()) for n, p in names.items()}
    groups = find_groups(model, images(1).double())
    replay_(model, random_plan(groups, seed=2))
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert {n: m.training for n, m in model.named_modules()} == modes
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float64
        assert parameter.is_leaf
        assert parameter.is_contiguous()
        assert set(parameter.detach().flatten().tolist()) <= values[name]
    assert model.double()(images(2).double()).dtype == torch.float64


def test_a_depthwise_convolution_may_keep_one_channel() -> None:
    model = build("depthwise")
    groups = find_groups(model, images(1))
    replay_(model, plan_units(groups, {"expand": range(1, 8)}))
    assert model.deep.groups == model.deep.in_channels == model.deep.out_channels == 1
    assert model(images(2)).shape == (2, 4)


def test_select_linear_becomes_plain_where_it_reads_all_that_arrives() -> None:
    model = build("flatten")
    groups = find_groups(model, images(1))
    replay_(model, plan_units(groups, {"fc1.features": [3, 20]}))
    selecting = model.get_submodule("fc1")
    assert isinstance(selecting, SelectLinear)
    assert "incoming=80" in repr(selecting)
    assert selecting.index.dtype == torch.int32
    assert "fc1.index" in model.state_dict()
    groups = find_groups(model, images(1))
    replay_(model, plan_units(groups, {"conv1": [0, 1]}))
    assert type(model.get_submodule("fc1")) is nn.Linear
    assert model.get_submodule("fc1").in_features == 48


def test_a_cut_network_trains() -> None:
    model = build("flatten").train()
    replay_(model, random_plan(find_groups(model, images(1)), seed=1))
    x, y = batches(1)[0]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
