"""Accuracy on labelled batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunus.batches import Loader, OutputChoice, choose_output, match, primary, read
from prunus.core import DataError, NonFiniteError

__all__ = ["accuracy"]


def accuracy(
    model: nn.Module,
    loader: Loader,
    progress: Any = None,
    *,
    output: OutputChoice | None = None,
) -> float:
    """Return the share of images whose largest output is their class, in [0, 1].

    Where labels and outputs are those of positions (pixels, tokens), it is the share of positions.

    Args:
        loader: batches in any form that `read` knows; which labels go with which outputs says
            `match`.
        output: which output of several is the main one: its name or index, or a function.

    Raises:
        DataError: the loader yields no image, or no labels that fit the output.
        NonFiniteError: an output is NaN, so there is no largest one.
    """
    training = model.training
    model.eval()
    right = count = 0
    try:
        with torch.no_grad(), choose_output(output):
            batches = read(loader, model, progress)
            for batch in batches:
                made = primary(batch.inputs.run(model))
                found = match(made, batch.labels)
                if found.kind == "values":
                    raise DataError(
                        f"the loader yields targets of {found.targets.dtype}, but accuracy needs "
                        "class labels: use restoration_quality for image targets; numbers are "
                        "fitted with loss='mse', and their network is cut step by step, with "
                        "collect(teacher='targets')"
                    )
                if torch.isnan(made).any():
                    raise NonFiniteError(
                        f"{type(model).__name__} produced NaN outputs: its training diverged or "
                        "its weights are corrupt; use another checkpoint"
                    )
                right += int(found.right().sum())
                count += len(found.targets)
    finally:
        model.train(training)
    if not count:
        raise DataError("the loader yields no image to measure accuracy on: give a non-empty one")
    return right / count
