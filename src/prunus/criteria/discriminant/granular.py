"""Teachers from coarse to fine with depth: multi-granularity DI."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.elimination import (
    Elimination,
    discriminant_inverse,
    information_share,
)
from prunus.criteria.discriminant.information import execution_order
from prunus.criteria.scores import CRITERIA
from prunus.graph import Consumer, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["Granular", "depth_weights", "granular_D"]


def depth_weights(statistics: Statistics) -> dict[str, float]:
    """Return w_l = l/(n−1) of the l-th of n consumers in execution order.

    From 0 at the first to 1 at the last; a lone consumer has 1. [Kung-Hou, section 8.1, Figure 12]
    names a layer-wise granularity; the weights are a reconstruction of ours, theory.md (15).
    """
    names = execution_order(statistics)
    last = len(names) - 1
    return {name: i / last if last else 1.0 for i, name in enumerate(names)}


def granular_D(scatter: Scatter, parents: tuple[Tensor, ...], weight: float) -> Tensor:
    """Return D_w, standardised, with D_w D_wᵀ = S_B(coarse) + w·S_B(fine|coarse). Shape (F, ·).

    Between-class scatters of granularities are additive, S_B(fine) = S_B(coarse) +
    S_B(fine|coarse), so tr(M⁻¹D_wD_wᵀ) = DI_coarse + w·DI_{fine|coarse}, theory.md (15), and
    D_w = [√(1−w)·D_coarse, √w·D_fine]. With G coarser granularities, w·G interpolates between
    neighbours from the coarsest (0) to the finest (G).
    """
    levels = [scatter, *(scatter.coarsen(parent) for parent in parents)]
    place = (1 - weight) * (len(levels) - 1)  # 0 is the finest, as in `levels`
    finer = min(math.floor(place), len(levels) - 2)
    coarser_share = place - finer
    fine, coarse = levels[finer].standard_D, levels[finer + 1].standard_D
    return torch.cat([coarser_share**0.5 * coarse, (1 - coarser_share) ** 0.5 * fine], dim=1)


@CRITERIA.register("granular")
class Granular(Elimination):
    """Exact loss of DI under a teacher from coarse to fine classes with depth.

    DI_w = DI_coarse + w_l·DI_{fine|coarse} at layer l: an early layer need not separate a cat from
    a dog, only an animal from a car. Greedy and exact as `di`; values are fractions of the
    consumers' DI_w. Needs labels of several granularities.

    Raises:
        ConfigError: the statistics have no coarser classes, or a consumer has no weight.
    """

    unit = "share of the multi-granularity discriminant information lost"
    needs = frozenset({"parents"})

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        ridge: float = 1e-3,
        rounds: int = 1024,
    ) -> None:
        """`weights` holds w_l in [0, 1] by consumer; by default `depth_weights`."""
        super().__init__(ridge, rounds)
        for name, weight in (weights or {}).items():
            if not 0 <= weight <= 1:
                raise ConfigError(f"weight of {name!r} is {weight}, expected 0 to 1")
        self.weights = weights

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor, Tensor]:
        """Return M⁻¹ and G_w/√DI_w."""
        if not statistics.parents:
            raise ConfigError(
                "criterion 'granular' needs coarser classes: collect with parents=[[coarse class "
                "of each class, …]], or with labels (B, G) of G granularities, the finest first"
            )
        weights = depth_weights(statistics) if self.weights is None else self.weights
        if consumer.module not in weights:
            raise ConfigError(
                f"criterion 'granular' has no weight for module {consumer.module!r}: give one "
                "for each consumer, or none at all for weights by depth"
            )
        D = granular_D(scatter, statistics.parents, weights[consumer.module])
        return information_share(D, *discriminant_inverse(scatter, self.ridge, D))
