"""Gradients of what stays are cut with it, as an optimiser's state is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.plan import Plan
from prunus.surgery import apply_, cut_state_, find_groups, mask_, replay_, tensors_of, undo_
from tests.conftest import random_plan
from tests.graph import nets
from tests.surgery.test_all_or_nothing import CASES


class Turned(nn.Module):
    """Layers in parameters: one as a layer has it, one turned."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 10))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head((torch.nn.functional.linear(x, self.one).relu() @ self.two).relu())
        return made


def rows(count: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    name: (make, inputs) for name, (make, inputs, _) in CASES.items() if name != "branches"
}
NETWORKS["grouped"] = (lambda: nets.build("grouped"), nets.images)
NETWORKS["transposed in groups"] = (lambda: nets.build("transposed in groups"), nets.images)
NETWORKS["functional"] = (Turned, rows)


def made(name: str) -> tuple[nn.Module, Tensor, Plan]:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make(), inputs(4)
    return model, x, random_plan(find_groups(model, x), seed=1)


def as_weights(model: nn.Module) -> nn.Module:
    """Return a network whose weights are another one's gradients."""
    twin = copy.deepcopy(model)
    for one, other in zip(twin.parameters(), model.parameters(), strict=True):
        one.data = torch.zeros_like(other) if other.grad is None else other.grad.clone()
    return twin


@pytest.mark.parametrize("verb", [replay_, lambda m, plan: apply_(m, plan, compensate="none")])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gradient_is_cut_as_its_parameter(name: str, verb: Callable[..., Any]) -> None:
    model, x, plan = made(name)
    prunus.modules.bake_(model)
    model(x).square().sum().backward()
    expected = dict(replay_(as_weights(model), plan).named_parameters())
    verb(model, plan)
    assert any(p.grad is not None for p in model.parameters())
    for key, parameter in model.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.equal(found, expected[key]), key
        assert parameter.grad is None or parameter.grad.is_contiguous()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mask_zeroes_the_gradient_of_what_it_removes(name: str) -> None:
    model, x, plan = made(name)
    prunus.modules.bake_(model)
    model(x).square().sum().backward()
    expected = dict(mask_(as_weights(model), plan).named_parameters())
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    mask_(model, plan)
    for key, parameter in model.named_parameters():
        if key not in before:
            assert parameter.grad is None, key
        elif "norm" in key:  # one over channels is masked by its forward pass
            gone = list(plan.modules["norm"]["out"].removed)
            assert not parameter.grad[gone].any(), key
        else:
            assert torch.equal(parameter.grad, expected[key]), key
    assert any(not torch.equal(before[n], model.get_parameter(n).grad) for n in before)


def test_weights_that_were_computed_have_no_gradient() -> None:
    model, x, plan = made("attention")
    model(x).square().sum().backward()
    assert "up" in apply_(model, plan, compensate="none").baked
    up = model.get_submodule("up")
    assert up.weight.grad is None and up.bias.grad is not None


def test_a_cut_between_the_backward_pass_and_the_step() -> None:
    """Step and cut may change places: the gradient and the momenta are those of what stays."""
    stepped, x, plan = made("residual")
    cut = copy.deepcopy(stepped)
    for model in (stepped, cut):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for scale in (1.0, 0.5):
            optimizer.zero_grad()
            model(scale * x).square().sum().backward()
            if model is cut and scale == 0.5:
                before = tensors_of(model)
                apply_(model, plan, compensate="none")
                assert cut_state_(optimizer, before, model, plan) == []
            optimizer.step()
    replay_(stepped, plan)
    for key, tensor in stepped.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], tensor, msg=key)
    cut(x).square().sum().backward()  # and training goes on
    optimizer.step()


@pytest.mark.parametrize("name", NETWORKS)
def test_undone_there_are_no_gradients_and_with_training_kept_those_of_what_stayed(
    name: str,
) -> None:
    model, x, plan = made(name)
    prunus.modules.bake_(model)
    receipt = apply_(model, plan, compensate="none")
    model(x).square().sum().backward()
    twin = copy.deepcopy(model)
    for one, other in zip(twin.parameters(), model.parameters(), strict=True):
        one.grad = None if other.grad is None else other.grad.clone()
    left = {n: p.grad for n, p in model.named_parameters()}
    undo_(twin, receipt)
    assert all(p.grad is None for p in twin.parameters())
    undo_(model, receipt, keep_training=True)
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (left[key] is None), key
        if parameter.grad is not None:
            assert parameter.grad.shape == parameter.shape
            assert parameter.grad.count_nonzero() == left[key].count_nonzero(), key
    replay_(model, plan)
    for key, parameter in model.named_parameters():
        if left[key] is not None:
            assert torch.equal(parameter.grad, left[key]), key
