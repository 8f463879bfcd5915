"""What units contribute to single classes: which of them a class depends on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.fisher import fisher_ratio
from prunus.criteria.families import consumers_of
from prunus.criteria.gather import gather
from prunus.graph import Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["best_units", "class_ratio", "class_scores"]


def class_ratio(scatter: Scatter, class_index: int) -> Tensor:
    """Return how well each feature alone separates class l from all others, in [0, 1]. Shape (F,).

    FDR of the two classes "l" and "not l": their means are μ_l and
    μ_r = μ − N_l/(N−N_l)·(μ_l−μ), so N_l(μ_l−μ)² + (N−N_l)(μ_r−μ)² =
    N_l(μ_l−μ)²·N/(N−N_l), and the ratio divides it by S_ii ([Kung-Hou, eq. 5] for two classes).
    A class without samples, or a lone one, gives 0.

    Raises:
        ConfigError: the class does not exist.
    """
    classes = len(scatter.teacher_total)
    if not scatter.discrete or not 0 <= class_index < classes:
        raise ConfigError(
            f"class {class_index} was requested, the teacher "
            + (f"has classes 0 … {classes - 1}" if scatter.discrete else "is continuous")
        )
    return fisher_ratio(scatter.coarsen((torch.arange(classes) == class_index).long()))


def class_scores(groups: Groups, statistics: Statistics, class_index: int) -> dict[str, Tensor]:
    """Return, by group, how well each unit separates a class from all others: (units,), in [0, 1].

    The greatest `class_ratio` over the unit's features (a patch's taps, a map's positions) in
    any consumer. Groups none of whose consumers ran have no entry.

    Raises:
        ConfigError: the class does not exist, or the statistics are kernels.
    """
    ratios: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    for group in groups.values():
        for consumer, scatter, blocks in consumers_of(groups, [group], statistics):
            name = consumer.module
            if name not in ratios:
                ratios[name] = class_ratio(scatter, class_index)
            best = gather(ratios[name], blocks).amax(1)
            scores[group.name] = torch.maximum(scores.get(group.name, best), best)
    return scores


def best_units(
    groups: Groups, statistics: Statistics, classes: Sequence[int], share: float = 0.1
) -> dict[str, Tensor]:
    """Return, by group, the units among the best `share` for any of `classes`.

    At least one per class. Units are in ascending order, int64.

    Raises:
        ConfigError: `share` is not in (0, 1], or a class does not exist.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}, expected above 0 and at most 1")
    best: dict[str, set[int]] = {}
    for index in classes:
        for name, values in class_scores(groups, statistics, index).items():
            order = torch.argsort(values, descending=True, stable=True)
            first = order[: math.ceil(share * len(values))].tolist()
            best.setdefault(name, set()).update(first)
    return {name: torch.tensor(sorted(units)) for name, units in best.items()}
