"""Whatever is asked of a network, it is afterwards what it was before, bit for bit."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.modules import private_copy
from tests.borders.untouched import untouched
from tests.conftest import random_plan

UNTRAINED = prunus.TrainConfig(epochs=0)
ONE_SHOT = prunus.PruneConfig(iterations=1, finetune=UNTRAINED, final=UNTRAINED)


class Net(nn.Module):
    """Three layers with a norm, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 10)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(10, 3)

    def last(self, h: Tensor) -> Tensor:
        made: Tensor = self.head(self.drop(self.b(h).relu()))
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.a(x)).relu())


class Listed(Net):
    """Its layers are in a list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.a, self.b]

    def last(self, h: Tensor) -> Tensor:
        made: Tensor = self.head(self.layers[1](h).relu())
        return made


class Noted(Net):
    """A hook that is a method writes into a buffer and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.latest: Any = None
        self.b.register_forward_hook(self.note)

    def note(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.get_buffer("seen").add_(1)
        self.latest = output.detach().mean()


class Counted(Net):
    """Its forward pass counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.shapes: list[torch.Size] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.append(x.shape)
        return super().forward(x)


class Sampled(Net):
    """Noise of PyTorch and of NumPy, even in evaluation."""

    def last(self, h: Tensor) -> Tensor:
        noise = torch.randn(len(h), 3) * 1e-9 + 1e-9 * float(np.random.rand())
        return super().last(h) + noise


class Dropped(Net):
    """Dropout that is always on."""

    def last(self, h: Tensor) -> Tensor:
        return super().last(F.dropout(h, 0.3, training=True))


class Tied(Net):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(12, 10)
        self.c.weight = self.b.weight

    def last(self, h: Tensor) -> Tensor:
        made: Tensor = self.head(self.b(h).relu() + self.c(h).relu())
        return made


def attribute() -> nn.Module:
    net = Net()
    net.act = lambda x: x * torch.sigmoid(x) * net.norm.weight.mean()  # type: ignore[assignment]
    net.last = lambda h: net.head(net.act(net.b(h)))  # type: ignore[method-assign, operator]
    return net


def partial() -> nn.Module:
    net = Net()
    net.last = functools.partial(Net.last, net)  # type: ignore[method-assign]
    return net


def writing(net: Net, *_: Any) -> None:
    net.norm.get_buffer("num_batches_tracked").add_(1)


def hook() -> nn.Module:
    net = Net()
    net.a.register_forward_hook(lambda *_: writing(net))
    return net


def boxed_hook() -> nn.Module:
    net = Net()
    box = {"net": net}
    net.a.register_forward_pre_hook(lambda *_: writing(box["net"]))
    return net


def partial_hook() -> nn.Module:
    net = Net()
    net.a.register_forward_hook(functools.partial(writing, net))
    return net


def with_gradients() -> nn.Module:
    net = Net()
    net(torch.randn(4, 6)).sum().backward()
    net.a.weight.requires_grad_(False)
    return net


def mixed_modes() -> nn.Module:
    net = Net().eval()
    net.norm.train()
    return net


def normed_weights() -> nn.Module:
    net = Net()
    net.b = nn.utils.spectral_norm(net.b)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "evaluation": lambda: Net().eval(),
    "layers in a list": Listed,
    "hook that is a method": Noted,
    "counts its calls": Counted,
    "noise": Sampled,
    "dropout": Dropped,
    "attribute that is a closure": attribute,
    "partial": partial,
    "hook": hook,
    "hook over a container": boxed_hook,
    "hook that is a partial": partial_hook,
    "gradients": with_gradients,
    "mixed modes": mixed_modes,
    "spectral norm": normed_weights,
    "tied": Tied,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_call_leaves_the_network_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name](), torch.randn(4, 6)
    loader = [(torch.randn(16, 6), torch.arange(16) % 3) for _ in range(4)]
    batches = [tensor for batch in loader for tensor in batch]
    with untouched(model, x, *batches):
        groups = prunus.find_groups(model, x)
    with untouched(model, x, *batches):
        assert prunus.unsound_groups(groups, x) == {}
    with untouched(model, x, *batches):
        prunus.diagnose(model, x)
    if not groups:  # its output is random: nothing can be compared
        assert name == "dropout"
        return
    with untouched(model, x, *batches):
        prunus.collect(model, loader, groups)
    plan = random_plan(groups, seed=1)
    with untouched(model, x, *batches):
        prunus.apply_(private_copy(model), plan, loader=loader)
    with untouched(model, x, *batches):
        prunus.prune(model, loader, "params=80%", config=ONE_SHOT, device="cpu")
