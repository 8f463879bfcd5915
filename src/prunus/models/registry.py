"""The registry of networks: a factory takes the number of classes and the image's shape."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from prunus.core import Registry

__all__ = ["MODELS", "ModelFactory"]


class ModelFactory(Protocol):
    """Builds a network for `num_classes` classes of images of `input_shape` (C, H, W)."""

    def __call__(self, *, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network, its weights drawn from PyTorch's global generator."""
        ...


MODELS = Registry[ModelFactory](
    "model", hint=", or torchvision:NAME, timm:NAME, path/to/file.py:factory"
)
