"""Weights that other tensors compute, and the plain ones that take their place."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as new
from torch.nn.utils import parametrize, prune

from prunus.modules import (
    bake_,
    baked_kinds,
    baked_words,
    owners_of,
    private_copy,
    unbake_,
    weight_of,
)


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "weight", 0.2)
    return prune.l1_unstructured(layer, "bias", 0.5)


#: name → (what computes the weight, in words; the function that sets it up).
KINDS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "new weight norm": ("weight norm", new.weight_norm),
    "new spectral norm": ("spectral norm", new.spectral_norm),
    "orthogonal": ("orthogonal parametrisation", new.orthogonal),
    "two": ("weight norm, spectral norm", lambda m: new.spectral_norm(new.weight_norm(m))),
    "both tensors": ("weight norm", lambda m: new.weight_norm(new.weight_norm(m), "bias", None)),
    "old weight norm": ("weight norm", nn.utils.weight_norm),
    "old spectral norm": ("spectral norm", nn.utils.spectral_norm),
    "masks": ("pruning mask", pruned),
}

old = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")


def build(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    wrap = KINDS[name][1]
    layers = [wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 6, 3)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), wrap(nn.Linear(6 * 25, 4)))


@old
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_a_baked_layer_computes_the_same_and_comes_back(name: str, training: bool) -> None:
    model = build(name)
    x = torch.randn(2, 3, 9, 9)
    expected = model.eval()(x)
    model.train(training)
    before, names = copy.deepcopy(model.state_dict()), [n for n, _ in model.named_parameters()]
    assert baked_kinds(model) == dict.fromkeys("025", KINDS[name][0])
    value = weight_of(model[0])
    baked = bake_(model)
    assert all(
        torch.equal(before[key], t) for key, t in model.state_dict().items() if key in before
    )
    plain = ["weight", "bias"]
    assert [n for n, _ in model[0].named_parameters()] == plain
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(model[0].weight, value)
    assert baked_kinds(model) == {}
    assert torch.allclose(model.eval()(x), expected, atol=1e-6)
    model.train(training)
    with torch.no_grad():
        model[0].weight.zero_()
    unbake_(model, baked)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()
    assert torch.equal(model.eval()(x), expected)
    again = build(name)
    again.load_state_dict(model.state_dict())


@old
@pytest.mark.parametrize("name", KINDS)
def test_baking_a_copy_leaves_the_network_alone(name: str) -> None:
    model = build(name).eval()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    bake_(private_copy(model))
    assert torch.equal(model(x), expected)
    assert baked_kinds(model) == dict.fromkeys("025", KINDS[name][0])


def test_only_the_named_modules_are_baked() -> None:
    model = build("new weight norm")
    bake_(model, owners_of(["2", "5.weight:1"]))
    assert list(baked_kinds(model)) == ["0"]


def test_a_frozen_weight_stays_frozen() -> None:
    model = build("new weight norm")
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    bake_(model)
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad


def test_layers_with_one_source_share_the_plain_weight() -> None:
    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    for layer in (a, b):
        parametrize.register_parametrization(layer, "weight", Twice())
    b.parametrizations.weight.original = a.parametrizations.weight.original  # type: ignore[union-attr]
    bake_(nn.ModuleList([a, b]))
    assert a.weight is b.weight


def test_the_sentence_names_what_was_baked() -> None:
    assert baked_words({"a": "weight norm", "b": "pruning mask"}) == (
        "the weight norm and pruning mask of 'a', 'b' became part of the weight, which keeps its "
        "present value and is no longer computed from other tensors"
    )
