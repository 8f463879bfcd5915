"""The usual input of a network, for commands that name a network but no data."""

from __future__ import annotations

# The families register themselves when imported.
from prunus.core import imported
from prunus.models import families  # noqa: F401
from prunus.models.growth import split_sizes
from prunus.models.registry import MODELS, Shape

__all__ = ["usual_input"]


def usual_input(spec: str) -> tuple[Shape, int]:
    """Return the image shape (C, H, W) and the number of classes that `spec` was designed for.

    A timm network defines its shape. A file's factory does not: 3×224×224, 10 classes. Stage sizes
    after the name make no difference.

    Example:
        >>> usual_input("lenet5")
        ((1, 28, 28), 10)
    """
    spec, _ = split_sizes(spec)
    if spec in MODELS:
        entry = MODELS[spec]
        return entry.input_shape, entry.num_classes
    prefix, _, name = spec.partition(":")
    if prefix == "timm":
        timm = imported("timm")  # slow to import: only when needed
        own = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        channels, height, width = own.input_size if own is not None else (3, 224, 224)
        return (channels, height, width), 1000
    return (3, 224, 224), 1000 if prefix == "torchvision" else 10
