"""Quality of a network: accuracy for labels, PSNR and SSIM for images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from prunus.core import DataError
from prunus.evaluation.accuracy import accuracy
from prunus.evaluation.restoration import restoration_quality

__all__ = ["measure"]


def measure(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], progress: Any = None
) -> dict[str, float]:
    """Return {'accuracy'} if the targets are labels, {'psnr', 'ssim'} if they are images.

    The scale of super-resolution is inferred from the first batch; that many pixels are cropped.

    Raises:
        DataError: the loader is empty.
        NonFiniteError: an output is NaN.
    """
    batches = iter(progress(loader) if progress else loader)
    first = next(batches, None)
    if first is None:
        raise DataError("the loader yields no image to measure on: give a non-empty one")
    images, targets = first
    rest = itertools.chain([first], batches)
    if not targets.is_floating_point():
        return {"accuracy": accuracy(model, rest)}
    scale = max(1, round(targets.shape[-1] / images.shape[-1]))
    found = restoration_quality(model, rest, scale)
    return {"psnr": found.psnr, "ssim": found.ssim}
