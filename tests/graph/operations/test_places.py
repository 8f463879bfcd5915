"""What says where to read or write keeps no label in silence."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.surgery import unsound_groups
from tests.graph.test_groups import reasons


class Two(nn.Module):
    """Two convolutions: `a` makes what is read, `b` says where, or what else."""

    def __init__(self, what: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what
        self.a, self.b = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.what(self.a(x).relu(), self.b(x)).relu())


def warped(a: Tensor, b: Tensor) -> Tensor:
    grid = b.unflatten(1, (2, -1)).sum(2).permute(0, 2, 3, 1)
    return F.grid_sample(a, grid.tanh(), align_corners=False)


def gathered(a: Tensor, b: Tensor) -> Tensor:
    return a.gather(2, (b > 0).long())


def indexed(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten(2)[:, :, (b > 0)[0].flatten(1).sum(1)].unsqueeze(-1)


def looked_up(a: Tensor, b: Tensor) -> Tensor:
    return a + F.embedding((b > 0).long(), torch.ones(2, 1)).squeeze(-1)


def scattered(a: Tensor, b: Tensor) -> Tensor:
    rows = torch.arange(a.shape[2] * a.shape[3]).view(1, 1, -1).expand(*a.shape[:2], -1) // 2
    return torch.zeros_like(a).flatten(2).scatter_add(2, rows, b.flatten(2)).view_as(a) + a


def written(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a[:, :, torch.tensor([0, 2])] = b[:, :, :2]
    return a


def windows(a: Tensor, b: Tensor) -> Tensor:
    patches = F.unfold(a, 3, padding=1)
    one = patches.view(len(a), a.shape[1], 9, *a.shape[2:]).sum(2)
    return F.fold(patches, a.shape[2:], 3, padding=1) + one * b.sigmoid()


@pytest.mark.parametrize(
    "what", [gathered, looked_up, scattered, written, windows], ids=lambda f: f.__name__
)
def test_channels_of_both_operands_are_one(what: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Two(what).eval(), torch.randn(1, 3, 6, 6)
    groups = find_groups(model, x)
    assert [(g.name, g.units) for g in groups.values()] == [("a", 4)]
    assert [m.module for m in groups["a"].members] == ["a", "b", "head"]
    assert unsound_groups(groups, x) == {}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (warped, "'grid_sampler_2d' reads positions from it"),
        (indexed, "'index' takes places from it"),
    ],
)
def test_what_says_where_stays(what: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    torch.manual_seed(0)
    model, x = Two(what).eval(), torch.randn(1, 3, 6, 6)
    groups = find_groups(model, x)
    assert list(groups) == ["a"]
    assert reasons(groups)["b"] == reason
    assert unsound_groups(groups, x) == {}


def test_an_odd_call_keeps_its_own_labels_whole() -> None:
    def odd(a: Tensor, b: Tensor) -> Tensor:
        return a + torch.ops.aten.dot(b.flatten(), b.flatten())

    torch.manual_seed(0)
    groups = find_groups(Two(odd).eval(), torch.randn(1, 3, 6, 6))
    assert list(groups) == ["a"]
    assert "'dot' is not an operation that can be traced" in reasons(groups)["b"]
