"""What each unit's features are worth, from what each feature of a consumer is worth."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.graph import Index

__all__ = ["gather"]


def gather(values: Tensor, blocks: Index) -> Tensor:
    """Return the values (F,) of the features that each unit owns, on the CPU. Shape (units, k).

    0 stands where `blocks` (units, k) holds −1: the unit owns fewer than k features there.
    """
    values = values.cpu()
    padded = torch.cat([values, values.new_zeros(1)])  # index −1 is the last
    return padded[torch.from_numpy(blocks)]
