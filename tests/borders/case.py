"""Rows of the corpus: networks that people bring, with what is expected of each."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Inputs

__all__ = [
    "NETWORKS",
    "Network",
    "classes",
    "image",
    "network",
    "rows",
    "run",
    "steps",
    "tensors",
    "tokens",
]

#: Makes n examples of what the network is called with, or n labels.
Draw = Callable[[int], Any]

NETWORKS: dict[str, Network] = {}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A small network, what it is called with, and what Prunus is to do with it.

    Attributes:
        cuts: modules whose outputs, or axes of parameters that, some group must hold.
        refused: the network as a whole is refused, in words that match.
        steps_refused: the groups are found, but `collect` refuses the network in words that match.
        prune_refused: the steps work, but `prune()` refuses it in words that match.
        writes: attributes that the network's own forward pass writes.
        random: its output is random in evaluation, so outputs are not compared.
        inner: where the network is within a wrapper: names of groups are its own.
        teacher: what `collect` learns from, if not the classes.
        export: a format that the pruned network is exported to.
        export_refused: the export is refused in words that match.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Draw
    labels: Draw
    cuts: tuple[str, ...] = ()
    refused: str = ""
    steps_refused: str = ""
    prune_refused: str = ""
    writes: tuple[str, ...] = ()
    random: bool = False
    teacher: str | None = None
    inner: str = ""
    output: Any = None
    export: str = ""
    export_refused: str = ""
    tolerance: float = 1e-5
    #: Fractions of units that are removed at random; fewer for tiny groups.
    most: float = 0.6

    def fresh(self) -> nn.Module:
        """Return the network, the same at every call."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return stirred_(self.build())

    def inside(self, model: nn.Module) -> nn.Module:
        """Return the network within its wrapper, which is what is cut."""
        return model.get_submodule(self.inner)

    def used(self) -> nn.Module:
        """Return it as in the middle of someone's work: gradients, mixed modes, frozen weights."""
        model = self.fresh()
        for at, module in enumerate(model.modules()):
            if not isinstance(module, torch.jit.ScriptModule):
                module.training = at % 3 != 1
        for at, parameter in enumerate(model.parameters()):
            if parameter.is_floating_point() and not is_lazy(parameter):
                parameter.grad = torch.full_like(parameter, 0.5)
                parameter.requires_grad_(parameter.requires_grad and at % 4 != 3)
        return model

    def example(self, count: int = 1, seed: int = 1) -> Any:
        """Return what the network is called with, for `count` examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.inputs(count)

    def loader(self, batches: int = 2, size: int = 16) -> list[Any]:
        """Return batches (inputs, labels)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return [(self.inputs(size), self.labels(size)) for _ in range(batches)]


def network(inputs: Draw, cuts: tuple[str, ...] = (), **expected: Any) -> Callable[[Any], Any]:
    """Enter a class of networks, or a function that makes one, under its name."""

    def enter(build: Any) -> Any:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", build.__name__).lower()
        assert name not in NETWORKS, name
        expected.setdefault("labels", classes())
        NETWORKS[name] = Network(name=name, build=build, inputs=inputs, cuts=cuts, **expected)
        return build

    return enter


def image(channels: int = 3, size: int = 8, dtype: torch.dtype = torch.float32) -> Draw:
    return lambda n: torch.randn(n, channels, size, size).to(dtype)


def rows(width: int, dtype: torch.dtype = torch.float32) -> Draw:
    return lambda n: torch.randn(n, width).to(dtype)


def steps(length: int, width: int) -> Draw:
    return lambda n: torch.randn(n, length, width)


def tokens(length: int = 6, vocabulary: int = 20) -> Draw:
    return lambda n: torch.randint(0, vocabulary, (n, length))


def classes(count: int = 4, *positions: int) -> Draw:
    """Return labels from 0 to `count`, of examples or of all their positions."""
    if not positions:
        return lambda n: torch.arange(n) % count
    return lambda n: torch.randint(0, count, (n, *positions))


def run(model: nn.Module, example: Any) -> list[Tensor]:
    """Return all outputs, with the same random numbers each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        random.seed(3)
        return tensors(Inputs.of(example)(model))


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in what a network returns or is called with, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors(item)]
    return tensors(vars(value)) if hasattr(value, "__dict__") else []


def is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


@torch.no_grad()
def stirred_(model: nn.Module) -> nn.Module:
    """Give norms and scales that start as constants values that differ, as training does."""
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), Tensor) and not is_lazy(
            module.running_var
        ):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.6, 1.6)
    for parameter in model.parameters():
        skipped = is_lazy(parameter) or parameter.is_meta or parameter.numel() < 2
        if skipped or not parameter.is_floating_point():
            continue
        first = float(parameter.flatten()[0])
        if bool((parameter == first).all()):
            parameter.uniform_(-0.2, 0.2) if first == 0 else parameter.uniform_(0.6, 1.4)
    return model
