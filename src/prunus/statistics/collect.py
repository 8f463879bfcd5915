"""One pass over the calibration images: `collect`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunus.core.errors import DataError, NonFiniteError
from prunus.graph import Consumer, Groups
from prunus.graph.probe import flatten_tensors
from prunus.statistics.scatter import Scatter

__all__ = ["Statistics", "collect"]

Loader = Iterable[tuple[Tensor, Tensor]]


class Statistics(Mapping[str, Scatter]):
    """The scatter of every consumer's input, by module name.

    Attributes:
        groups: what they were collected for; says which features a scatter's rows stand for.
        images: how many images made them.
    """

    def __init__(self, scatters: dict[str, Scatter], groups: Groups, images: int) -> None:
        self._scatters = scatters
        self.groups = groups
        self.images = images

    def __getitem__(self, consumer: str) -> Scatter:
        return self._scatters[consumer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scatters)

    def __len__(self) -> int:
        return len(self._scatters)

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of images."""
        merged = {name: scatter.merge(other[name]) for name, scatter in self._scatters.items()}
        return Statistics(merged, self.groups, self.images + other.images)


def collect(
    model: nn.Module,
    loader: Loader,
    groups: Groups,
    teacher: int | None = None,
    *,
    batches: int | None = None,
    progress: Any = None,
) -> Statistics:
    """Sum up the input of every consumer over `loader`: one forward pass, nothing kept an image.

    Args:
        loader: batches (images, class labels), of the training data.
        teacher: the number of classes; by default the width of the network's output.
        batches: stop after so many batches.
        progress: wraps the loader's iteration (a progress bar).

    A convolution's samples are its input's positions; a linear layer's its rows. Each batch is
    summed in the activations' precision, batches add up in float64.
    Cost: N·H·W·C² multiply-adds a consumer, 1/(taps·C_out/C) of its own forward pass.

    Raises:
        NonFiniteError: an activation is NaN or infinite; names the first module that makes one.
        DataError: no batch came, or a label lies outside the network's classes.
    """
    device = next(model.parameters()).device
    store = "cpu" if device.type == "mps" else device  # MPS has no float64
    scatters: dict[str, Scatter] = {}
    one_hot = torch.empty(0)
    bad: list[str] = []

    def watch(consumer: Consumer) -> Any:
        plain = consumer.positions.size == consumer.incoming == len(consumer.positions)
        positions = None if plain else torch.from_numpy(consumer.positions).to(device)

        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            samples = _samples(args[0].detach(), isinstance(module, nn.Linear), positions)
            if len(samples) != len(one_hot):
                raise DataError(
                    f"module {consumer.module!r} reads {len(samples)} rows for {len(one_hot)} "
                    "images, so its samples have no class: keep the batch as the first axis"
                )
            if not _accumulate(scatters[consumer.module], samples, one_hot):
                bad.append(consumer.module)

        return hook

    modes = {module: module.training for module in model.modules()}
    model.eval()
    images = 0
    try:
        with torch.no_grad():
            taken = loader if batches is None else itertools.islice(loader, batches)
            for x, y in progress(taken) if progress else taken:
                if not scatters:
                    classes = teacher or _output_width(model, x[:1].to(device))
                    for name, consumer in groups.consumers.items():
                        scatters[name] = Scatter.zeros(len(consumer.positions), classes, store)
                labels = _checked_labels(y, classes).to(store)
                one_hot = nn.functional.one_hot(labels, classes).double()
                with _hooked(model, {n: watch(c) for n, c in groups.consumers.items()}):
                    model(x.to(device))
                if bad:
                    raise NonFiniteError(_first_bad(model, x.to(device)))
                images += len(x)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not images:
        raise DataError("the calibration loader gave no batch: give it at least one image a class")
    return Statistics(scatters, groups, images)


def _samples(x: Tensor, linear: bool, positions: Tensor | None) -> Tensor:
    """Return a consumer's input as (B, F, P): P samples of F features an image."""
    if not linear:
        return x.flatten(2)  # (B, C, H, W) → (B, C, H·W)
    if positions is not None and positions.shape[1] > 1:
        return x[:, positions]  # (B, F·k) → (B, F, k)
    if positions is not None:
        x = x[..., positions[:, 0]]
    return x.unsqueeze(-1) if x.dim() == 2 else x.flatten(1, -2).transpose(1, 2)


#: Share of its second moment that a feature's variance must be for float32 products about zero
#: to keep four digits of it; below it they are taken about the batch's mean.
SPREAD = 1e-3


def _accumulate(scatter: Scatter, x: Tensor, teacher: Tensor) -> bool:
    """Add one batch x (B, F, P) with one-hot labels (B, L); return False if it is not finite."""
    batch, _, positions = x.shape
    store = scatter.gram
    sums = x.sum(2).to(store.device, store.dtype)
    if not torch.isfinite(sums).all():
        return False
    gram = _gram(x, sums, store)
    samples, second = batch * positions, gram.diagonal()
    mean = sums.sum(0) / samples
    if positions > 1 and (second - samples * mean.square() < SPREAD * second).any():
        offset = mean.to(x.device, x.dtype)
        x = x - offset[:, None]
        rest, offset = x.sum(2).to(store.device, store.dtype), offset.to(store.device, store.dtype)
        cross = torch.outer(rest.sum(0), offset)
        gram = _gram(x, rest, store) + cross + cross.T + samples * torch.outer(offset, offset)
        sums = rest + positions * offset
    scatter.gram += gram
    scatter.class_total += teacher.T @ sums
    scatter.class_count += positions * teacher.sum(0)
    return True


def _gram(x: Tensor, sums: Tensor, store: Tensor) -> Tensor:
    """Return Σ x xᵀ (F, F) of x (B, F, P) in float64; with one position that is Σ sums sumsᵀ."""
    batch, features, positions = x.shape
    if positions == 1:
        return sums.T @ sums
    if features <= positions:
        return torch.bmm(x, x.transpose(1, 2)).sum(0, dtype=store.dtype).to(store.device)
    flat = x.transpose(0, 1).reshape(features, batch * positions)
    return (flat @ flat.T).to(store.device, store.dtype)


@contextmanager
def _hooked(model: nn.Module, hooks: dict[str, Any]) -> Iterator[None]:
    handles = [model.get_submodule(n).register_forward_pre_hook(h) for n, h in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_width(model: nn.Module, x: Tensor) -> int:
    output = flatten_tensors(model(x))[0]
    if output.dim() != 2:
        raise DataError(
            f"the network's output has shape {tuple(output.shape)}, expected (batch, classes): "
            "say teacher=<number of classes>"
        )
    return int(output.shape[1])


def _checked_labels(y: Tensor, classes: int) -> Tensor:
    if y.dim() != 1 or y.is_floating_point():
        raise DataError(
            f"labels have shape {tuple(y.shape)} and type {y.dtype}, expected one class index "
            "(int64) an image"
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise DataError(
            f"labels run from {int(y.min())} to {int(y.max())}, but the network has {classes} "
            "outputs: give a network with one output a class"
        )
    return y.long()


def _first_bad(model: nn.Module, x: Tensor) -> str:
    """Run the batch again and name the first module whose output is not finite."""
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(names[module])

    handles = [m.register_forward_hook(look) for m in model.modules()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(x).all():
        return "the calibration images hold NaN or infinity: clean the data first"
    where = found[0] if found else "the network"
    return (
        f"the activations of module {where!r} hold NaN or infinity on calibration images: "
        "prune a network that trained without diverging, or leave half precision"
    )
