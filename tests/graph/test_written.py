"""Norms and standardised weights that networks implement themselves."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.modules.kinds import has_own_forward, is_written_norm
from prunus.plan import make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, mask_, replay_, unsound_groups


class RootMeanSquareNorm2d(nn.Module):
    """x·w / √(mean over channels of x²)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.weight[:, None, None]


class ResponseNorm(nn.Module):
    """ConvNeXt-V2's: each channel's energy against the mean over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(2, 3), keepdim=True)
        share = energy / (energy.mean(1, keepdim=True) + 1e-6)
        return x + self.weight[:, None, None] * x * share + self.bias[:, None, None]


class FirstNorm(nn.Module):
    """Layer normalisation of maps, by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + 1e-6)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class StandardConv(nn.Conv2d):
    """Weight standardisation: each filter has mean 0 and variance 1 over all that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-6)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Image(nn.Module):
    def __init__(self, norm: nn.Module, kind: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), norm
        self.conv, self.last = kind(8, 6, 3), kind(6, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.norm(self.stem(x)).relu()).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


class Scale(nn.Module):
    """The same, in a class whose name does not say that it normalises."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.g[:, None, None] * x.shape[1] ** 0.5


class Centre(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) * self.g[:, None, None]


NORMS = {
    "unnamed": Scale,
    "centre": Centre,
    "rms": RootMeanSquareNorm2d,
    "response": ResponseNorm,
    "layer": FirstNorm,
}


@pytest.mark.parametrize("name", list(NORMS))
def test_a_norm_written_by_hand_is_taken_over_the_channels_that_stay(name: str) -> None:
    torch.manual_seed(0)
    model, x = Image(NORMS[name](8)).eval(), torch.randn(2, 3, 9, 9)
    assert is_written_norm(model.norm)
    groups = find_groups(model, x)
    assert {g.name: g.units for g in groups.values()} == {"stem": 8, "conv": 6, "last": 5}
    assert unsound_groups(groups, x) == {}
    plan = make_plan(groups, score(groups, None, "random", seed=0), "macs=50%")
    cut = replay_(copy.deepcopy(model), plan)
    torch.testing.assert_close(cut(x), mask_(copy.deepcopy(model), plan)(x))
    # by the definition: the same norm with the same numbers over fewer channels
    kept = plan.modules["stem"]["out"].kept()
    fresh = NORMS[name](len(kept))
    for key, value in model.norm.named_parameters():
        setattr(fresh, key, nn.Parameter(value.detach()[kept]))
    y = model.stem(x)[:, kept]
    torch.testing.assert_close(cut.norm(y), fresh(y))


def test_what_is_no_norm_is_not_taken_for_one() -> None:
    class Pooled(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean(1, keepdim=True) * self.weight[:, None, None]

    class Gate(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean(1, keepdim=True).sigmoid() * self.weight[:, None, None]

    class LayerScale(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight[:, None, None]

    assert not is_written_norm(Pooled(8))
    assert not is_written_norm(Gate(8))
    assert not is_written_norm(LayerScale(8))
    assert not is_written_norm(nn.LayerNorm(8))
    assert not is_written_norm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    groups = find_groups(Image(Pooled(8)).eval(), torch.randn(2, 3, 9, 9))
    reasons = {u.module: u.reason for u in groups.unprunable}
    assert reasons["stem"] == "'mean' runs over its channels"


def test_pytorchs_rms_norm() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Linear(3, 8), nn.RMSNorm(8)
            self.up, self.head = nn.Linear(8, 6), nn.Linear(6, 2)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.up(self.norm(self.embed(x))).relu().mean(1))

    model, x = Tokens().eval(), torch.randn(2, 4, 3)
    groups = find_groups(model, x, inputs=False)
    assert unsound_groups(groups, x) == {}
    plan = make_plan(groups, score(groups, None, "random", seed=0), "macs=60%")
    cut = replay_(copy.deepcopy(model), plan)
    assert cut.norm.normalized_shape == (cut.embed.out_features,)
    torch.testing.assert_close(cut(x), mask_(copy.deepcopy(model), plan)(x))


def test_standardised_weights_are_standardised_over_what_stays() -> None:
    torch.manual_seed(0)
    model, x = Image(nn.Identity(), StandardConv).eval(), torch.randn(40, 3, 9, 9)
    assert has_own_forward(model.conv) and not has_own_forward(model.stem)
    groups = find_groups(model, x[:2])
    assert groups.worked_out == ("conv", "last")
    assert unsound_groups(groups, x[:2]) == {}
    plan = make_plan(groups, score(groups, None, "random", seed=0), "macs=60%")
    cut = replay_(copy.deepcopy(model), plan)
    assert type(cut.conv) is StandardConv
    torch.testing.assert_close(cut(x), mask_(copy.deepcopy(model), plan)(x))
    # repair would write a weight that the layer does not use as it is
    loader = [(x, torch.arange(40) % 2)]
    statistics = collect(model, loader, groups)
    receipt = apply_(copy.deepcopy(model), plan, statistics, loader=loader)
    said = {r.module: r.reason for r in receipt.repairs}
    assert said["conv"] == said["last"]
    assert said["last"] == "it computes its weight, or what that multiplies, from others"


def test_paths_chosen_by_a_softmax_share_their_channels() -> None:
    """Selective kernels: a weight for each channel of each path, over stacked paths."""

    class Paths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
            self.choose, self.head = nn.Conv2d(8, 16, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.stack([self.one(x), self.other(x)], 1)
            pooled = self.choose(x.sum(1).mean((2, 3), keepdim=True))
            weight = pooled.view(len(x), 2, pooled.shape[1] // 2, 1, 1).softmax(1)
            return self.head((x * weight).sum(1).mean((2, 3)))

    model, x = Paths().eval(), torch.randn(2, 3, 9, 9)
    groups = find_groups(model, x)
    assert {g.name: g.units for g in groups.values()} == {"one": 8}
    assert unsound_groups(groups, x) == {}
