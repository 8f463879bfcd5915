"""Layers that multiply their weight by a mask: its axes belong to those of the weight."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.evaluation import count_bytes, count_params
from prunus.graph import find_groups
from prunus.plan import CostTracker
from prunus.surgery import apply_, mask_, undo_
from tests.conftest import random_plan
from tests.graph.test_groups import members, reasons


def _mask(weight: Tensor) -> Tensor:
    return (torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.3).float()


class Causal(nn.Conv2d):
    """PixelCNN's convolution."""

    def __init__(self, incoming: int, out: int, **kwargs: int) -> None:
        super().__init__(incoming, out, 3, **kwargs)
        self.register_buffer("mask", _mask(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class Overwritten(Causal):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super(Causal, self).forward(x)


class Learnt(Causal):
    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out)
        mask = self._buffers.pop("mask")
        assert mask is not None
        self.mask = nn.Parameter(mask)


class ByInput(Causal):
    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out)
        self.register_buffer("mask", torch.rand(1, incoming, 1, 1))


class Turned(nn.ConvTranspose2d):
    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out, 3)
        self.register_buffer("mask", _mask(self.weight))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv_transpose2d(x, self.weight * self.mask, self.bias)


class Masked(nn.Linear):
    """MADE's layer."""

    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out)
        self.register_buffer("mask", _mask(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def _network(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    flat = kind is Masked
    last = nn.Linear(10, 3) if flat else nn.Conv2d(10, 3, 1)
    first, second = kind(3, 8), kind(8, 10)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    return model.eval(), torch.randn(2, 3) if flat else torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (Causal, "0.out 2.in 0.mask:0.out 2.mask:1.out", "2.out 4.in 2.mask:0.out"),
        (Overwritten, "0.out 2.in 0.mask:0.out 2.mask:1.out", "2.out 4.in 2.mask:0.out"),
        (Learnt, "0.out 2.in 0.mask:0.out 2.mask:1.out", "2.out 4.in 2.mask:0.out"),
        (ByInput, "0.out 2.in 2.mask:1.out", "2.out 4.in"),
        (Turned, "0.out 2.in 0.mask:1.out 2.mask:0.out", "2.out 4.in 2.mask:1.out"),
        (Masked, "0.out 2.in 0.mask:0.out 2.mask:1.out", "2.out 4.in 2.mask:0.out"),
    ],
)
def test_a_mask_is_cut_with_its_weight(kind: type[nn.Module], first: str, second: str) -> None:
    model, x = _network(kind)
    groups = find_groups(model, x)
    assert members(groups) == {"0": first, "2": second}
    plan = random_plan(groups, 3)
    tracker = CostTracker(groups)
    for name, edit in plan.groups.items():
        tracker.remove(groups[name], edit.removed)
    masked, before = mask_(copy.deepcopy(model), plan), copy.deepcopy(model)
    receipt = apply_(model, plan)
    assert torch.allclose(model(x), masked(x), atol=1e-6)
    assert tracker.totals["params"] == count_params(model)
    assert tracker.totals["bytes"] == count_bytes(model)
    undo_(model, receipt)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            before.state_dict().values(), model.state_dict().values(), strict=True
        )
    )


def test_a_mask_of_a_convolution_in_groups_keeps_what_it_reads() -> None:
    model = nn.Sequential(Causal(3, 8), nn.ReLU(), Causal(8, 8, groups=2), nn.Conv2d(8, 3, 1))
    groups = find_groups(model, torch.zeros(1, 3, 9, 9))
    assert list(groups) == ["2"]
    assert reasons(groups)["0"] == "a convolution in groups masks or shares its weight"


class Gated(nn.Conv2d):
    """A convolution that holds a gate over what it reads."""

    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out, 3)
        self.gate = nn.Conv2d(incoming, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


def test_a_layer_that_another_holds_is_masked_with_it() -> None:
    model, x = _network(Gated)
    groups = find_groups(model, x)
    assert list(groups) == ["0", "2"]
    plan = random_plan(groups, 3)
    masked = mask_(copy.deepcopy(model), plan)
    apply_(model, plan)
    assert torch.allclose(model(x), masked(x), atol=1e-6)
