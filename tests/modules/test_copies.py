"""Private copies: whatever in a network refers to the network refers to the copy."""

# ruff: noqa: PLW0108 - closures are what is tested

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.modules import private_copy


class Net(nn.Module):
    """Two layers, of which `go` runs the first."""

    go: Any

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def run_a(self, x: Tensor) -> Tensor:
        made: Tensor = self.a(x)
        return made

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.go(x) if hasattr(self, "go") else self.a(x))
        return made


class Holder:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x)
        return made


def call(x: Tensor, layer: nn.Module) -> Tensor:
    made: Tensor = layer(x)
    return made


def with_default(net: Net) -> None:
    def run(x: Tensor, layer: nn.Module = net.a) -> Tensor:
        return call(x, layer)

    net.go = run


def nested(net: Net) -> None:
    def inner(x: Tensor) -> Tensor:
        return call(x, net.a)

    net.go = lambda x: inner(x)


def in_a_box(net: Net) -> None:
    box = {"layers": [net.a]}
    net.go = lambda x: box["layers"][0](x)


def recursive(net: Net) -> None:
    def run(x: Tensor, again: bool = True) -> Tensor:
        return run(x, False) if again else call(x, net.a)

    net.go = run


def patched(net: Net) -> None:
    old = net.a.forward
    net.a.forward = lambda x: old(x)  # type: ignore[assignment,method-assign]


GLOBAL: list[Net] = []


def through_a_global(net: Net) -> None:
    GLOBAL[:] = [net]
    net.go = read_global


def read_global(x: Tensor) -> Tensor:
    return call(x, GLOBAL[0].a)


def set_go(go: Callable[[Net], Any]) -> Callable[[Net], None]:
    return lambda net: setattr(net, "go", go(net))


WAYS: dict[str, Callable[[Net], None]] = {
    "closure": set_go(lambda net: lambda x: net.a(x)),
    "nested closure": nested,
    "closure over a container": in_a_box,
    "closure over itself": recursive,
    "default": with_default,
    "partial": set_go(lambda net: functools.partial(call, layer=net.a)),
    "partial of a closure": set_go(lambda net: functools.partial(lambda k, x: net.a(x), 1)),
    "method": set_go(lambda net: net.run_a),
    "method of its own": set_go(lambda net: types.MethodType(lambda m, x: m.a(x), net)),
    "object": set_go(lambda net: Holder(net.a)),
    "object with a closure": set_go(lambda net: Holder(lambda x: net.a(x))),  # type: ignore[arg-type]
    "global": through_a_global,
    "forward of a layer": patched,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_runs_its_own_layers(way: str) -> None:
    net = Net()
    WAYS[way](net)
    made, x = private_copy(net), torch.randn(5, 3)
    torch.testing.assert_close(made(x), net(x), rtol=0, atol=0)
    before = net(x)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert not made(x).any()
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    again = private_copy(made)  # a copy of a copy, too
    with torch.no_grad():
        again.b.bias.add_(1)
    assert not made(x).any()


def test_a_hook_writes_into_the_copy() -> None:
    net = Net()

    def write(*_: Any) -> None:
        net.b.bias.data += 1

    net.a.register_forward_hook(write)
    made, before = private_copy(net), net.b.bias.clone()
    bias = made.b.bias.clone()
    made(torch.zeros(1, 3))
    torch.testing.assert_close(net.b.bias, before, rtol=0, atol=0)
    torch.testing.assert_close(made.b.bias, bias + 1, rtol=0, atol=0)


def test_what_does_not_lead_to_the_network_is_shared() -> None:
    net, seen = Net(), []

    def note(*_: Any) -> None:
        seen.append(1)

    net.a.register_forward_hook(note)
    made = private_copy(net)
    assert list(made.a._forward_hooks.values()) == [note]
    made(torch.zeros(1, 3))
    assert seen == [1]
