"""The registry of networks: metadata of each name, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from torch import nn

from prunus.core import Registry, Task

__all__ = [
    "MODELS",
    "ModelEntry",
    "ModelFactory",
    "RestorerFactory",
    "Shape",
    "register_model",
    "register_restorer",
]

Shape = tuple[int, int, int]


class ModelFactory(Protocol):
    """Builds a network for `num_classes` classes of images of `input_shape` (C, H, W)."""

    def __call__(self, *, num_classes: int, input_shape: Shape) -> nn.Module:
        """Return the network, its weights drawn from PyTorch's global generator."""
        ...


class RestorerFactory(Protocol):
    """Builds a restoration network for images of `input_shape` (C, H, W)."""

    def __call__(self, *, input_shape: Shape) -> nn.Module:
        """Return the network, its weights drawn from PyTorch's global generator."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A network by name: its source, its usual input, how it is built.

    A classifier maps (B, C, H, W) to logits (B, `num_classes`). A restorer maps (B, C, H, W) to
    (B, C, s·H, s·W) with s = `scale`; it has no classes (`num_classes` is 0). `family` is the file
    that defines its factory.
    """

    build: Callable[[int, Shape], nn.Module]
    family: str
    task: Task
    source: str
    input_shape: Shape
    num_classes: int = 0
    scale: int = 1


MODELS = Registry[ModelEntry](
    "model", hint=", or torchvision:NAME, timm:NAME, path/to/file.py:factory"
)

F = TypeVar("F", bound=ModelFactory)
R = TypeVar("R", bound=RestorerFactory)


def register_model(
    name: str, *, source: str, input_shape: Shape = (3, 32, 32), num_classes: int = 10
) -> Callable[[F], F]:
    """Return a decorator that registers a classifier's factory under `name`.

    `source` is its authors and reference in one line; `input_shape` and `num_classes` are those it
    was designed for.
    """

    def file(factory: F) -> F:
        MODELS.register(name)(
            ModelEntry(
                build=lambda classes, shape: factory(num_classes=classes, input_shape=shape),
                family=_family(factory),
                task="classification",
                source=source,
                input_shape=input_shape,
                num_classes=num_classes,
            )
        )
        return factory

    return file


def register_restorer(
    name: str, *, source: str, input_shape: Shape, scale: int = 1
) -> Callable[[R], R]:
    """Return a decorator that registers a restorer's factory under `name`.

    Its images are enlarged by `scale`: 1 for denoising and deblocking.
    """

    def file(factory: R) -> R:
        MODELS.register(name)(
            ModelEntry(
                build=lambda _, shape: factory(input_shape=shape),
                family=_family(factory),
                task="restoration",
                source=source,
                input_shape=input_shape,
                scale=scale,
            )
        )
        return factory

    return file


def _family(factory: Callable[..., nn.Module]) -> str:
    while isinstance(factory, partial):
        factory = factory.func
    return factory.__module__.rpartition(".")[2]
