"""Weights that are worked out from others: weight_norm, spectral_norm, masks, LoRA, gains."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from tests.borders.case import image, network, rows
from tests.borders.networks.convolutional import Head

CUTS = ("first", "second")


class Wrapped(nn.Module):
    """Three convolutions, the middle one changed by `wrap`."""

    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(3, 10, 3, padding=1),
            wrap(nn.Conv2d(10, 12, 3, padding=1)),
        )  # type: ignore[operator]
        self.third, self.head = nn.Conv2d(12, 10, 3, padding=1), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.third(F.relu(self.second(F.relu(self.first(x)))))))


@network(image(), cuts=CUTS)
def weight_norm() -> nn.Module:
    return Wrapped(parametrizations.weight_norm)


@network(image(), cuts=CUTS)
def old_weight_norm() -> nn.Module:
    return Wrapped(nn.utils.weight_norm)


@network(image(), cuts=("first",))
def spectral_norm() -> nn.Module:
    return Wrapped(parametrizations.spectral_norm)


@network(image(), cuts=("first",))
def old_spectral_norm() -> nn.Module:
    return Wrapped(nn.utils.spectral_norm)


@network(image(), cuts=CUTS)
def unstructured_masks() -> nn.Module:
    return Wrapped(lambda c: prune.l1_unstructured(c, "weight", 0.5))


@network(image(), cuts=CUTS)
def structured_masks() -> nn.Module:
    return Wrapped(lambda c: prune.ln_structured(c, "weight", 0.25, n=2, dim=0))


@network(rows(8), cuts=("0",))
def orthogonal() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16),
        nn.ReLU(),
        parametrizations.orthogonal(nn.Linear(16, 12)),
        nn.ReLU(),
        nn.Linear(12, 4),
    )


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@network(rows(8), cuts=("2",))
def own_parametrisation() -> nn.Module:
    net = nn.Sequential(
        nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    parametrize.register_parametrization(net[1], "weight", Symmetric())
    return net


class Standardised(nn.Conv2d):
    """Weight standardisation, before GroupNorm."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean = w.mean((1, 2, 3), keepdim=True)
        w = (w - mean) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, w, self.bias)


@network(image(), cuts=("0", "3"))
def weight_standardisation() -> nn.Module:
    return nn.Sequential(
        Standardised(3, 12, 3, padding=1),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        Standardised(12, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        Head(16),
    )


class Gained(nn.Linear):
    """Equalised learning rate: a fixed gain."""

    gain = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


@network(rows(8), cuts=("0", "2"))
def gained_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Gained(16, 12), nn.ReLU(), nn.Linear(12, 4))


class Biased(nn.Linear):
    """A subclass with a buffer of its own, of the width of its output."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o)
        self.register_buffer("shift", torch.linspace(0, 1, o))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


@network(rows(8), cuts=("0", "2"))
def linear_with_buffer() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Biased(16, 12), nn.ReLU(), nn.Linear(12, 4))


class NormedConv(nn.Conv2d):
    """Detectron2's: a convolution that holds its norm and activation."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3, padding=1, bias=False)
        self.norm, self.activation = nn.BatchNorm2d(o), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return self.activation(self.norm(x))


@network(image(), cuts=("0", "1"))
def convolutions_with_children() -> nn.Module:
    return nn.Sequential(NormedConv(3, 12), NormedConv(12, 16), Head(16))


class LoraLinear(nn.Linear):
    """A linear layer that holds a low-rank update and its dropout."""

    def __init__(self, i: int, o: int, rank: int = 3) -> None:
        super().__init__(i, o)
        self.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, i) * 0.2)
        self.lora_B = nn.Parameter(torch.randn(o, rank) * 0.2)
        self.dropout, self.scaling = nn.Dropout(0.1), 2.0

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y + self.dropout(x) @ self.lora_A.t() @ self.lora_B.t() * self.scaling


@network(rows(8), cuts=("0", "2"))
def lora_subclass() -> nn.Module:
    return nn.Sequential(
        LoraLinear(8, 16), nn.ReLU(), LoraLinear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


class LoraModule(nn.Module):
    """PEFT's: the base layer and two linear layers beside it."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.base, self.a, self.b = (
            nn.Linear(i, o),
            nn.Linear(i, 3, bias=False),
            nn.Linear(3, o, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.b(self.a(x))


@network(rows(8), cuts=("0.base", "2.base"))
def lora_modules() -> nn.Module:
    return nn.Sequential(
        LoraModule(8, 16), nn.ReLU(), LoraModule(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


class FakeQuantised(nn.Conv2d):
    """Quantisation-aware: weights are rounded in the forward pass, straight through."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-8) / 127
        rounded = (self.weight / scale).round() * scale
        return self._conv_forward(x, self.weight + (rounded - self.weight).detach(), self.bias)


@network(image(), cuts=("0", "2"), tolerance=1e-4)
def quantisation_aware() -> nn.Module:
    return nn.Sequential(
        FakeQuantised(3, 12, 3, padding=1), nn.ReLU(), FakeQuantised(12, 16, 3), nn.ReLU(), Head(16)
    )
