"""Masked equals cut: readers that are no layers, and norms wherever they have their channels."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.graph import find_groups
from prunus.modules import private_copy
from prunus.plan import plan_units
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan


class Net(nn.Module):
    """Parts, and what is done with them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Equalised(nn.Module):
    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outgoing, incoming))
        self.scale = incoming**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale)


class Adapted(nn.Module):
    """LoRA."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.whole = nn.Linear(incoming, outgoing)
        self.A = nn.Parameter(torch.randn(2, incoming))
        self.B = nn.Parameter(torch.randn(outgoing, 2))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.whole(x) + (x @ self.A.T) @ self.B.T
        return made


class Codebook(nn.Module):
    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, width))

    def forward(self, x: Tensor) -> Tensor:
        distances = ((x[..., None, :] - self.codes) ** 2).sum(-1)
        return self.codes[distances.argmin(-1)]


class Turned(nn.LayerNorm):
    """A LayerNorm for channels first."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Written(nn.Module):
    """The same by hand, with a weight of shape (C, 1, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width, 1, 1) + 0.5)
        self.bias = nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        spread = torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)
        return centred / spread * self.weight + self.bias


def read_by(reader: nn.Module, width: int = 10) -> nn.Module:
    head = nn.Linear(width, 3)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), reader, head)


def recurrent(reader: nn.Module) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        made: Tensor = net.head(net.reader(net.first(x).relu())[0])
        return made

    return Net(run, first=nn.Linear(8, 12), reader=reader, head=nn.Linear(10, 3))


def cell() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        made: Tensor = net.head(net.reader(net.first(x[:, 0]).relu()))
        return made

    return Net(run, first=nn.Linear(8, 12), reader=nn.GRUCell(12, 10), head=nn.Linear(10, 3))


def multiplied(product: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        return product(net.first(x).relu(), net.weight)

    return Net(run, first=nn.Linear(8, 12), weight=nn.Parameter(torch.randn(3, 12)))


def normed(norm: nn.Module) -> nn.Module:
    """A norm on square maps: as many channels as rows and columns."""
    body = nn.Conv2d(12, 12, 3, padding=1), norm, nn.GELU(), nn.Conv2d(12, 6, 1)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def permuted(norm: nn.Module) -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.norm(net.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        made: Tensor = net.head(x.mean((2, 3)))
        return made

    return Net(run, first=nn.Conv2d(12, 12, 3, padding=1), norm=norm, head=nn.Linear(12, 3))


TOKENS, MAPS = (5, 8), (12, 12, 12)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "GRU": (lambda: recurrent(nn.GRU(12, 10, batch_first=True)), TOKENS),
    "cell": (cell, TOKENS),
    "LoRA": (lambda: read_by(Adapted(12, 10)), TOKENS),
    "equalised": (lambda: read_by(Equalised(12, 10)), TOKENS),
    "codebook": (lambda: read_by(Codebook(7, 12), 12), TOKENS),
    "F.linear": (lambda: multiplied(F.linear), TOKENS),
    "einsum": (lambda: multiplied(lambda x, w: torch.einsum("btc,oc->bto", x, w)), TOKENS),
    "LayerNorm for channels first": (lambda: normed(Turned(12)), MAPS),
    "one without a scale": (lambda: normed(Turned(12, elementwise_affine=False)), MAPS),
    "one written by hand": (lambda: normed(Written(12)), MAPS),
    "permuted": (lambda: permuted(nn.LayerNorm(12)), MAPS),
    "permuted without a scale": (
        lambda: permuted(nn.LayerNorm(12, elementwise_affine=False)),
        MAPS,
    ),
    "one group": (lambda: normed(nn.GroupNorm(1, 12)), MAPS),
    "one group without a scale": (lambda: normed(nn.GroupNorm(1, 12, affine=False)), MAPS),
    "instances": (lambda: normed(nn.InstanceNorm2d(12, affine=True)), MAPS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_cut(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, x = make().eval(), torch.randn(4, *shape)
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    groups = prunus.find_groups(model, x)
    first = {"0", "first"} & set(groups)
    assert first, [(one.module, one.reason) for one in groups.unprunable]
    plan = random_plan(groups, seed=1)
    with torch.no_grad():
        dense = model(x)
        masked, cut = mask_(private_copy(model), plan)(x), replay_(private_copy(model), plan)(x)
    assert not torch.allclose(dense, cut, rtol=1e-3)
    torch.testing.assert_close(masked, cut, rtol=1e-5, atol=1e-5 * float(masked.abs().max()))


class Standardised(nn.Conv2d):
    """A weight with mean 0 over its inputs, and a gain for each output."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(o, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * self.gain
        return F.conv2d(x, weight, self.bias, padding=1)


def test_a_gain_of_outputs_is_not_taken_for_one_of_inputs() -> None:
    """Where the same channels go before and behind a layer, their places tell them apart."""
    torch.manual_seed(0)
    net = nn.Sequential(
        Standardised(3, 8), nn.ReLU(), Standardised(8, 8), nn.ReLU(), Standardised(8, 4)
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    plan = plan_units(find_groups(net, x), {"0": [0, 3, 5], "2": [0, 3, 5]})
    masked, cut = mask_(copy.deepcopy(net), plan), replay_(copy.deepcopy(net), plan)
    torch.testing.assert_close(masked(x), cut(x), rtol=1e-5, atol=1e-5)
