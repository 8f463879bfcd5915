"""A cut changes modules and shared parameters in place; undone, they are what they were."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.core import PlanError
from prunus.graph import find_groups
from prunus.modules import SelectLinear, private_copy
from prunus.plan import Edit, Plan
from prunus.surgery import mask_
from tests.conftest import random_plan


class Gained(nn.Linear):
    """A buffer scales what it makes."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing)
        self.register_buffer("gain", torch.rand(outgoing) + 0.5)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's own name
        return super().forward(input) * self.gain


class Prepared(nn.Linear):
    """A buffer scales what it reads."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing)
        self.register_buffer("gain", torch.rand(incoming) + 0.5)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input * self.gain)


class Standardised(nn.Conv2d):
    """Its weight has no mean."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class Padded(nn.Conv2d):
    """It pads what it reads."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(F.pad(input, (1, 1, 1, 1), mode="replicate"))


def layers(kind: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), kind(16, 12), nn.ReLU(), kind(12, 10), nn.Linear(10, 3)
    )


def maps(kind: Callable[[int, int, int], nn.Module]) -> nn.Module:
    body = nn.Conv2d(3, 8, 3), nn.ReLU(), kind(8, 12, 3), nn.ReLU(), kind(12, 6, 3)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "scales its output": (lambda: layers(Gained), (8,)),
    "scales its input": (lambda: layers(Prepared), (8,)),
    "standardises its weight": (lambda: maps(Standardised), (3, 12, 12)),
    "pads its input": (lambda: maps(Padded), (3, 12, 12)),
}


@pytest.mark.parametrize("net", NETWORKS)
def test_a_subclass_stays_what_it_is(net: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[net]
    model, x = make().eval(), torch.randn(3, *shape)
    with torch.no_grad():
        dense = model(x)
    groups = prunus.find_groups(model, x)
    assert {"0", "2"} <= set(groups)
    plan = random_plan(groups, seed=1)
    masked = mask_(private_copy(model), plan)
    modules = {name: (module, type(module)) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model[2].note = "mine"  # type: ignore[index]
    calls: list[int] = []
    model[2].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index]
    receipt = prunus.apply_(model, plan, compensate="none")
    kinds = {name: (module, type(module)) for name, module in model.named_modules()}
    changed = {name for name in modules if modules[name] != kinds[name]}
    assert all(kinds[name] == (modules[name][0], SelectLinear) for name in changed)
    assert "2" not in changed and "4" not in changed
    with torch.no_grad():
        torch.testing.assert_close(model(x), masked(x), rtol=1e-5, atol=1e-5)
    assert calls and model[2].note == "mine"  # type: ignore[index]
    prunus.undo_(model, receipt)
    assert {name: (m, type(m)) for name, m in model.named_modules()} == modules
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Gained, Prepared, Standardised, Padded])
def test_what_a_layer_does_with_its_input_is_not_fitted_away(kind: type[nn.Module]) -> None:
    """Where its output is not W·x + b of its input, no repair changes its weight."""
    torch.manual_seed(0)
    linear = issubclass(kind, nn.Linear)
    model = (layers(kind) if linear else maps(kind)).eval()
    shape = (8,) if linear else (3, 12, 12)
    loader = [(torch.randn(32, *shape), torch.arange(32) % 3) for _ in range(4)]
    model(loader[0][0])
    groups = prunus.find_groups(model, loader[0][0])
    plan = random_plan(groups, seed=1)
    cut, repaired = private_copy(model), private_copy(model)
    prunus.apply_(cut, plan, compensate="none")
    receipt = prunus.apply_(repaired, plan, loader=loader, groups=groups, batchnorm="never")
    reasons = {repair.module: repair.reason for repair in receipt.repairs}
    assert reasons["2"] and reasons["4"]
    torch.testing.assert_close(repaired[2].weight, cut[2].weight, rtol=0, atol=0)


def test_a_subclass_selects_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), Gained(48, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = find_groups(model, torch.zeros(1, 3, 4, 4))
    assert list(groups) == ["1"]
    plan = Plan(modules={"1": {"select": Edit(of=48, removed=(3,))}})
    with pytest.raises(PlanError, match="'1' is a Gained with a forward pass of its own"):
        prunus.apply_(model, plan)


def test_hooks_buffers_and_other_references_of_a_selecting_layer_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    first, x = model[0], torch.randn(4, 12)
    first.register_buffer("seen", torch.zeros(()))
    first._is_hf_initialized = True
    first.register_forward_hook(lambda module, *_: module.seen.add_(1) and None)
    others = [first]
    groups = prunus.find_groups(model, x)
    assert "0.inputs" in groups
    plan = random_plan(groups, seed=1)
    receipt = prunus.apply_(model, plan, compensate="none")
    assert model[0] is first is others[0]
    assert isinstance(first, SelectLinear)
    model(x)
    assert first.seen == 1 and first._is_hf_initialized
    prunus.undo_(model, receipt)
    assert model[0] is first
    assert type(first) is nn.Linear
    model(x)
    assert first.seen == 1  # restored with the rest, and one more


class Tied(nn.Module):
    """Two convolutions have one weight, between layers that make and read it all."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight = self.b.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = x + self.c(self.b(x).relu())
        made: Tensor = self.head(x.mean((2, 3)))
        return made


class Language(nn.Module):
    """The embedding of the tokens is what the output is read with."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(11, 12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        made: Tensor = self.head(h + self.mix(h).relu())
        return made


TIED: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, str]]] = {
    "convolutions": (Tied, torch.randn(2, 3, 6, 6), ("b.weight", "c.weight")),
    "embedding": (Language, torch.arange(6).view(2, 3), ("embed.weight", "head.weight")),
}


def is_one(model: nn.Module, names: tuple[str, str]) -> bool:
    return model.get_parameter(names[0]) is model.get_parameter(names[1])


@pytest.mark.parametrize("net", TIED)
def test_a_shared_parameter_stays_one(net: str) -> None:
    torch.manual_seed(0)
    make, x, names = TIED[net]
    model = make().eval()
    groups = prunus.find_groups(model, x)
    assert groups
    plan = random_plan(groups, seed=1)
    dense = [tensor.clone() for tensor in model.parameters()]
    masked = mask_(private_copy(model), plan)
    receipt = prunus.apply_(model, plan, compensate="none")
    assert is_one(model, names)
    assert is_one(private_copy(model), names)
    assert model.get_parameter(names[0]).shape != dense[-1].shape
    torch.testing.assert_close(model(x), masked(x), rtol=1e-5, atol=1e-5)
    kept = sum(parameter.numel() for parameter in model.parameters())
    assert receipt.params == (sum(tensor.numel() for tensor in dense), kept)
    prunus.undo_(model, receipt)
    assert is_one(model, names)
    for one, other in zip(model.parameters(), dense, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_plan_that_unties_is_refused() -> None:
    model = Tied()
    axes = {"out": Edit(of=8, removed=(1,))}
    plan = Plan(modules={"b": axes, "c": {"in": Edit(of=8, removed=(1,))}})
    with pytest.raises(PlanError, match=r"b\.weight and c\.weight are one tensor"):
        prunus.apply_(model, plan)
    assert model.b.weight is model.c.weight
    assert model.b.weight.shape == (8, 8, 3, 3)
