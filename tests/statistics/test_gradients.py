"""Gradients and traces wherever activations are: behind tokens, without a graph, detached."""

import copy
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prunus.core import ConfigError
from prunus.graph import find_groups
from prunus.statistics import Statistics, collect, trace_utility

LOADER = [
    (torch.randn(6, 3, 7, 7, generator=torch.Generator().manual_seed(i)), torch.arange(6) % 4)
    for i in range(2)
]


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.h = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(self.a(x)))

    def rest(self, x: Tensor) -> Tensor:
        return self.h(F.relu(self.b(x)).mean((2, 3)))


class Reentrant(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.rest, F.relu(self.a(x)), use_reentrant=True)


class Checkpointed(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.rest, F.relu(self.a(x)), use_reentrant=False)


class FrozenTrunk(Chain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.a(x))
        return self.rest(x)


class Detached(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(self.a(x)).detach()).detach()


class InPlace(Chain):
    def forward(self, x: Tensor) -> Tensor:
        x *= 1
        return self.rest(self.a(x).relu_())


class Frozen(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class Inference(Chain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = F.relu(self.a(x))
        return self.rest(x)


def _collected(model: nn.Module) -> Statistics:
    groups = find_groups(model, LOADER[0][0][:1])
    return collect(model, LOADER, groups, blocks=2, gradients=True, ranges=True)


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [Reentrant, Checkpointed, FrozenTrunk, Detached, InPlace, Frozen])
def test_every_consumer_has_its_gradient(
    kind: type[Chain], around: type[AbstractContextManager[None]]
) -> None:
    plain, model = _collected(Chain()), kind()
    with around():
        found = _collected(model)
    for name in ("a", "b", "h"):
        one, other = plain.outputs[name], found.outputs[name]
        assert torch.equal(plain[name].gram, found[name].gram)
        assert one.samples == other.samples > 0
        for key in ("gradient", "taylor", "low", "high"):
            assert torch.allclose(getattr(one, key), getattr(other, key)), (name, key)


@pytest.mark.parametrize("kind", [Reentrant, Checkpointed, FrozenTrunk, Detached, InPlace])
@pytest.mark.parametrize("rule", ["deconvolution", "relevance"])
def test_every_consumer_is_traced(kind: type[Chain], rule: str) -> None:
    plain, found = (
        trace_utility(model, LOADER, find_groups(model, LOADER[0][0][:1]), [0, 2], rule=rule)
        for model in (Chain(), kind())
    )
    for name in ("a", "b", "h"):
        assert torch.allclose(plain[name].utility, found[name].utility)


def test_inference_mode_in_a_forward_pass_is_named() -> None:
    with pytest.raises(ConfigError, match=r"module 'a' runs without gradients.*inference_mode"):
        _collected(Inference())


class Text(nn.Module):
    """Two layers and a shortcut read the same embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 5)
        self.a, self.b, self.h = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.h((x + self.a(x).relu() * self.b(x)).mean(1))


def test_a_gradient_behind_tokens_is_the_total_one() -> None:
    model, tokens = Text(), torch.arange(12).view(3, 4) % 9
    labels = torch.arange(3)
    groups = find_groups(model, tokens[:1])
    taylor = collect(model, [(tokens, labels)], groups, gradients=True).outputs["b"].taylor
    embedded = model.embed(tokens).detach().requires_grad_()
    twin = copy.deepcopy(model)
    twin.embed.forward = lambda _: embedded  # type: ignore[method-assign]
    F.cross_entropy(twin(tokens), labels, reduction="sum").backward()
    assert embedded.grad is not None
    expected = (embedded.detach() * embedded.grad).sum(1).abs().sum(0).double()
    assert taylor is not None
    assert torch.allclose(taylor, expected, rtol=1e-4)
    assert set(trace_utility(model, [tokens], groups, [1])) == {"a", "b", "h"}


class Inside(nn.Conv2d):
    """A convolution that holds its norm and activation (Detectron2's)."""

    def __init__(self, incoming: int, out: int) -> None:
        super().__init__(incoming, out, 3, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x)).relu()


class Beside(nn.Module):
    """The same with separate modules."""

    def __init__(self, inner: Inside) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner.in_channels, inner.out_channels, 3, bias=False)
        self.conv.weight, self.norm = inner.weight, inner.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


def test_a_layer_with_layers_inside_has_the_gradient_of_its_product() -> None:
    torch.manual_seed(0)
    a, b, h = Inside(3, 6), Inside(6, 5), nn.Linear(5, 4)
    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), h)
    inside = nn.Sequential(a, b, *ends)
    beside = nn.Sequential(Beside(a), Beside(b), *ends)
    found, plain = _collected(inside), _collected(beside)
    assert found.groups.composite == ("0", "1")
    for one, other in (("0", "0.conv"), ("1", "1.conv"), ("4", "4")):
        for key in ("gradient", "taylor", "low", "high"):
            mine, its = (getattr(s.outputs[n], key) for s, n in ((found, one), (plain, other)))
            assert torch.allclose(mine, its), (one, key)
