"""Quality of a network: accuracy for labels, PSNR and SSIM for images, the error of numbers."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Batch, Loader, match, primary, read
from prunus.core import DataError, NonFiniteError
from prunus.evaluation.accuracy import accuracy
from prunus.evaluation.restoration import restoration_quality
from prunus.modules import evaluating

__all__ = ["measure"]


def measure(model: nn.Module, loader: Loader, progress: Any = None) -> dict[str, float]:
    """Return {'accuracy'} for class labels, {'psnr', 'ssim'} for images, {'mse'} for numbers.

    The scale of super-resolution is inferred from the first batch; that many pixels are cropped.
    Numbers are targets of another shape than that of images (B, C, H, W).

    Raises:
        DataError: the loader is empty, or labels and output do not fit each other.
        NonFiniteError: an output is NaN.
    """
    batches = iter(read(loader, model, progress))
    first = next(batches, None)
    if first is None or first.labels is None:
        what = "image" if first is None else "label"
        raise DataError(f"the loader yields no {what} to measure on: give (images, labels)")
    rest = itertools.chain([first], batches)
    if not first.labels.is_floating_point():
        return {"accuracy": accuracy(model, rest)}
    if first.labels.dim() == 4:
        scale = max(1, round(first.labels.shape[-1] / first.inputs.tensors[0].shape[-1]))
        found = restoration_quality(model, rest, scale)
        return {"psnr": found.psnr, "ssim": found.ssim}
    if match(_output(model, first), first.labels).kind == "shares":
        return {"accuracy": accuracy(model, rest)}
    total, count = 0.0, 0
    for batch in rest:
        pair = match(_output(model, batch), batch.labels, "mse")
        total += float((pair.scores - pair.targets).double().square().sum())
        count += pair.targets.numel()
    return {"mse": total / count}


def _output(model: nn.Module, batch: Batch) -> Tensor:
    """Return the main output in eval mode."""
    with torch.no_grad(), evaluating(model):
        output = primary(batch.inputs.run(model))
    if torch.isnan(output).any():
        raise NonFiniteError(
            f"{type(model).__name__} produced NaN outputs: its training diverged or its weights "
            "are corrupt; use another checkpoint"
        )
    return output
