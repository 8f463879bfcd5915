"""Accuracy on labelled batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import primary
from prunus.core import DataError, NonFiniteError

__all__ = ["accuracy"]


def accuracy(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], progress: Any = None
) -> float:
    """Return the share of images whose largest output is their class, in [0, 1].

    Raises:
        DataError: the loader yields no image, or images instead of labels.
        NonFiniteError: an output is NaN, so there is no largest one.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    right = count = 0
    try:
        with torch.no_grad():
            for x, y in progress(loader) if progress else loader:
                if y.is_floating_point():
                    raise DataError(
                        f"the loader yields targets of {y.dtype}, but accuracy needs class labels: "
                        "use restoration_quality for image targets"
                    )
                output = primary(model(x.to(device)))
                if torch.isnan(output).any():
                    raise NonFiniteError(
                        f"{type(model).__name__} produced NaN outputs: its training diverged or "
                        "its weights are corrupt; use another checkpoint"
                    )
                right += int((output.argmax(1).cpu() == y.cpu()).sum())
                count += len(y)
    finally:
        model.train(training)
    if not count:
        raise DataError("the loader yields no image to measure accuracy on: give a non-empty one")
    return right / count
