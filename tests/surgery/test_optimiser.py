"""An optimiser goes on over a cut network, with the state of what stayed."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.surgery import cut_state_, replay_, tensors_of
from tests.conftest import random_plan
from tests.graph.nets import NETS, batches, build, images

KINDS = {
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, amsgrad=True),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5),
    "plain": lambda groups: torch.optim.SGD(groups, lr=0.01),
}


def step_(model: nn.Module, optimizer: Any) -> float:
    x, y = batches(1)[0]
    loss = F.cross_entropy(model.train()(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    wide = [p for p in model.parameters() if p.dim() > 1]
    flat = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": wide, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0, "lr": 0.5}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_state_is_sliced_as_its_parameter(net: str, kind: str) -> None:
    """Momenta that hold the parameters' values must hold those of the cut ones afterwards."""
    model = build(net)
    optimizer = KINDS[kind](grouped(model))
    step_(model, optimizer)
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                state[key] = p.detach().clone()
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    order = [[n for n, q in model.named_parameters() for p in g["params"] if p is q]
             for g in optimizer.param_groups]  # fmt: skip
    held = optimizer.param_groups, optimizer.state, [g["params"] for g in optimizer.param_groups]

    plan = random_plan(find_groups(model, images(1)), seed=1)
    before = tensors_of(model)
    replay_(model, plan)
    assert cut_state_(optimizer, before, model, plan) == []

    own = dict(model.named_parameters())
    assert held[0] is optimizer.param_groups
    assert held[1] is optimizer.state
    for group, params, names, kept in zip(*held[::2], order, settings, strict=True):
        assert group["params"] is params
        assert [id(p) for p in params] == [id(own[n]) for n in names]
        assert {k: v for k, v in group.items() if k != "params"} == kept
    assert set(optimizer.state) <= set(own.values())
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and key != "step":
                assert torch.equal(value, p), key
    step_(model, optimizer)


def test_a_schedule_goes_on() -> None:
    model = build("plain")
    lone = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=9) for o in (lone, optimizer)
    ]
    rates: list[list[float]] = [[], []]
    for i in range(8):
        if i == 4:
            plan = random_plan(find_groups(model, images(1)), seed=1)
            before = tensors_of(model)
            cut_state_(optimizer, before, replay_(model, plan), plan)
        for o, schedule, seen in zip((lone, optimizer), schedules, rates, strict=True):
            o.step()
            schedule.step()
            seen.append(o.param_groups[0]["lr"])
    assert rates[0] == rates[1]


def test_factors_start_anew() -> None:
    """Adafactor keeps row and column means, which are no slices of the parameter."""
    model = build("plain")
    optimizer = torch.optim.Adafactor(model.parameters())
    step_(model, optimizer)
    plan = random_plan(find_groups(model, images(1)), seed=1)
    before = tensors_of(model)
    replay_(model, plan)
    changed = [n for n, p in model.named_parameters() if before[n] is not p and p.dim() > 1]
    assert changed
    assert cut_state_(optimizer, before, model, plan) == changed
    assert step_(model, optimizer) > 0


def test_other_parameters_stay() -> None:
    """An optimiser may train more than the network: a loss's weights, or only a part of it."""
    model, other = build("plain"), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([other, model.conv2.weight], lr=0.1, momentum=0.9)
    plan = random_plan(find_groups(model, images(1)), seed=1)
    before = tensors_of(model)
    replay_(model, plan)
    cut_state_(optimizer, before, model, plan)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(other),
        id(model.conv2.weight),
    ]


def test_without_a_cut_nothing_happens() -> None:
    model = build("plain")
    optimizer = torch.optim.AdamW(model.parameters())
    step_(model, optimizer)
    state = {p: id(s) for p, s in optimizer.state.items()}
    plan = random_plan(find_groups(model, images(1)), seed=1, most=0.0)
    assert cut_state_(optimizer, tensors_of(model), model, plan) == []
    assert {p: id(s) for p, s in optimizer.state.items()} == state
