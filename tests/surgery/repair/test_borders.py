"""Repair by a loader ends and is right at the borders: paths that part, layouts, types, sizes."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.graph import Groups
from prunus.modules import private_copy
from prunus.plan import plan_units
from tests.conftest import random_plan


class Repeated(nn.Module):
    """A layer runs as often as the size of what it reads says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        for _ in range(1 + int(h.sum().item() * 10) % 4):
            h = h + self.b(h).relu()
        made: Tensor = self.c(h)
        return made


class Failing(nn.Module):
    """Fails where the first layer makes fewer than eight channels: in the cut network alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if len(x) > 1 and h.shape[1] < 8:
            raise ValueError("too few channels")
        made: Tensor = self.c(self.b(h).relu())
        return made


class Mixer(nn.Module):
    """Linear layers over tokens and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 4)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens1, self.tokens2 = nn.Linear(9, 20), nn.Linear(20, 9)
        self.channels1, self.channels2 = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        y = self.norm1(x).transpose(1, 2)
        x = x + self.tokens2(F.gelu(self.tokens1(y))).transpose(1, 2)
        x = x + self.channels2(F.gelu(self.channels1(self.norm2(x))))
        made: Tensor = self.head(x.mean(1))
        return made


def batches(*shape: int) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, *shape, generator=generator), torch.arange(32) % 3) for _ in range(8)]


def repaired(model: nn.Module, groups: Groups, loader: list[Any], *names: str) -> prunus.Receipt:
    units = {name: range(groups[name].units // 2) for name in names or groups}
    plan = plan_units(groups, units)
    return prunus.apply_(model, plan, loader=loader, groups=groups)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def test_a_layer_that_runs_less_often_when_cut_is_left_alone() -> None:
    threads = threading.active_count()
    for seed in range(6):
        torch.manual_seed(seed)
        model, loader = Repeated().eval(), batches(6)
        groups = prunus.find_groups(model, loader[0][0], verify=False)
        if "a" in groups:
            repaired(model, groups, loader, "a")
        assert threading.active_count() == threads


def test_an_error_of_the_cut_network_comes_out_and_no_thread_stays() -> None:
    torch.manual_seed(0)
    model, loader = Failing().eval(), batches(6)
    groups = prunus.find_groups(model, loader[0][0], verify=False)
    threads = threading.active_count()
    with pytest.raises((ValueError, prunus.PrunusError), match="too few channels"):
        repaired(model, groups, loader, "a")
    assert threading.active_count() == threads
    assert model.a.out_features == 8  # taken back


def test_a_mixer_comes_closer_where_rows_are_the_same() -> None:
    torch.manual_seed(0)
    model, loader = Mixer().eval(), batches(3, 12, 12)
    groups = prunus.find_groups(model, loader[0][0])
    assert {"embed", "tokens1", "channels1"} <= set(groups)
    x = loader[0][0]
    with torch.no_grad():
        dense = model(x)
        for names in (["tokens1", "channels1"], ["embed", "tokens1", "channels1"]):
            bare, whole = private_copy(model), private_copy(model)
            plan = plan_units(groups, {name: range(groups[name].units // 2) for name in names})
            prunus.apply_(bare, plan, compensate="none")
            receipt = repaired(whole, groups, loader, *names)
            assert distance(whole(x), dense) < distance(bare(x), dense)
            left = {repair.module: repair.reason for repair in receipt.repairs}
            odd = {"tokens2"} if "embed" in names else set()
            assert {name for name, reason in left.items() if reason} <= odd


def convolutions() -> nn.Module:
    body = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [convolutions, Mixer])
def test_half_precision_is_repaired_as_float32_is(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model, loader = make().eval(), batches(3, 12, 12)
    x = loader[0][0]
    groups = prunus.find_groups(model, x)
    plan = random_plan(groups, seed=1)
    half = private_copy(model).to(dtype)
    prunus.apply_(model, plan, loader=loader)
    receipt = prunus.apply_(half, plan, loader=loader)
    assert {tensor.dtype for tensor in half.parameters()} == {dtype}
    with torch.no_grad():
        assert distance(half(x.to(dtype)), model(x)) < 0.1
    prunus.undo_(half, receipt)
    assert {tensor.dtype for tensor in half.parameters()} == {dtype}


@pytest.mark.parametrize("scale", [1e20, 1e-20])
@pytest.mark.parametrize("make", [convolutions, Mixer])
def test_huge_and_tiny_activations_leave_finite_weights(
    make: Callable[[], nn.Module], scale: float
) -> None:
    torch.manual_seed(0)
    model, loader = make().eval(), batches(3, 12, 12)
    x = loader[0][0]
    plan = random_plan(prunus.find_groups(model, x), seed=1)
    with torch.no_grad():
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        first.weight.mul_(scale)
    receipt = prunus.apply_(model, plan, loader=loader)
    assert all(bool(tensor.isfinite().all()) for tensor in model.parameters())
    assert all(repair.reason or 0 <= repair.left <= 1 for repair in receipt.repairs)
    with torch.no_grad():
        assert model(x).isfinite().all()
