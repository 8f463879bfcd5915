"""Build a network from a spec and a data shape."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from prunus.core import ConfigError

# The families register themselves when imported.
from prunus.models import families  # noqa: F401
from prunus.models.external import build_external
from prunus.models.growth import grow_to_, split_sizes
from prunus.models.registry import MODELS
from prunus.models.weights import load_weights_

__all__ = ["build_model"]


def build_model(
    spec: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int, int, int],
    weights: Path | None = None,
) -> nn.Module:
    """Build the network `spec` for `num_classes` classes of images (C, H, W) = `input_shape`.

    A network for restoration has no classes: leave `num_classes` out.

    `spec` is a name in `MODELS`, `torchvision:NAME`, `timm:NAME` or `path/to/file.py:factory`.
    With stage sizes, as in `inception_v1@3,5,2`, it is that network grown to as many modules per
    stage (`grow_to_`), if it declares stages: `prunus models` shows which do. Random weights are
    drawn from PyTorch's global generator; `weights` names a file to load. A file's factory is
    called with those of `num_classes` and `input_shape` that it accepts; it runs with your
    permissions, so use only files that you trust.

    Raises:
        UnknownNameError: no such network; the message lists the known ones.
        ConfigError: the network cannot be built for this shape, its file or factory fails, or it is
            a classifier and no number of classes was given, or it has no such stages.
        WeightsError: the weight file is missing, broken or belongs to another network.
        NonFiniteError: the weight file holds NaN or infinity.

    Example:
        >>> build_model("lenet300", num_classes=10, input_shape=(1, 28, 28)).fc3.out_features
        10
        >>> grown = build_model("resnet20@9,9,9", num_classes=10, input_shape=(3, 32, 32))
        >>> sum(p.numel() for p in grown.parameters())  # ResNet-56
        853018
    """
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}, expected at least 1")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ConfigError(
            f"input_shape is {tuple(input_shape)}, expected three positive numbers: "
            "channels, height, width"
        )
    name, sizes = split_sizes(spec)
    model = build_external(name, num_classes=num_classes, input_shape=input_shape)
    if model is None:
        entry = MODELS[name]
        if num_classes is None and entry.task == "classification":
            raise ConfigError(f"{name} is a classifier: give num_classes")
        model = entry.build(num_classes or 0, input_shape)
    if sizes is not None:
        grow_to_(model, sizes)
    if weights is not None:
        load_weights_(model, weights)
    return model
