"""Torch-Pruning as its README calls it, and the check that every cut of ours must pass."""

import copy
import warnings
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

import prunus
from prunus.batches import flatten_tensors
from prunus.graph import Groups
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan


def torch_pruning_(model: nn.Module, example: Any, ratio: float = 0.5, **options: Any) -> nn.Module:
    """Prune `ratio` of every layer's channels by magnitude, in place; its warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importance = tp.importance.MagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(model, example, importance, pruning_ratio=ratio, **options)
        assert pruner.step() is None  # it returns no figure of what it did
    return model


def widths(model: nn.Module) -> dict[str, int]:
    """Return the outputs of each convolution and linear layer."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {n: len(m.weight) for n, m in model.named_modules() if isinstance(m, kinds)}


def check_cuts(model: nn.Module, example: Tensor, plans: int = 3) -> Groups:
    """Assert cut = masked to 1e-5 for random plans over all groups; return the groups."""
    groups = prunus.find_groups(model, example)
    for seed in range(plans):
        plan = random_plan(groups, seed)
        with torch.no_grad():
            masked = flatten_tensors(mask_(copy.deepcopy(model), plan).eval()(example))
            cut = flatten_tensors(replay_(copy.deepcopy(model), plan).eval()(example))
        for one, other in zip(masked, cut, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    return groups
