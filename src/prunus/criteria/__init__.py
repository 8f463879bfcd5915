"""Statistics and read-only weights → what each unit is worth."""

from __future__ import annotations

from typing import Any, cast

from prunus.core import one_blas_thread
from prunus.core.errors import ConfigError
from prunus.criteria.activation import ActivationMean, ActivationVariance
from prunus.criteria.baselines import L1, BNScale, GroupL2, Random
from prunus.criteria.classes import best_units, class_scores
from prunus.criteria.dcp import DCP, Bootstrap
from prunus.criteria.deep_lda import DeepLDA
from prunus.criteria.discriminant import DFDR, TFDR, RidgeLSE, dfdr
from prunus.criteria.elimination import ExactDI
from prunus.criteria.families import families_of, reads, score_family
from prunus.criteria.fisher import FDR, DiLOSS
from prunus.criteria.geometric_median import GeometricMedian
from prunus.criteria.granularity import Granular
from prunus.criteria.information import (
    LayerInformation,
    discriminant_information,
    discriminant_matrix,
    rank_layers,
    regression_matrix,
    ridge_lse,
    sort_layers,
)
from prunus.criteria.intervals import add_replicates, has_intervals
from prunus.criteria.latent import LatentUtility, latent_utility, otsu_threshold
from prunus.criteria.magnitude import Magnitude, Sparsity, han_sparsity
from prunus.criteria.scores import (
    CRITERIA,
    Criterion,
    GroupScore,
    NotScoredError,
    Scores,
    needs_of,
)
from prunus.criteria.selection import CherryPicking
from prunus.criteria.stacked import StackedConsumer
from prunus.criteria.structural import Structural, deleterious
from prunus.criteria.subspace import DCA, kung_tian, subspace_information
from prunus.criteria.taylor import Taylor
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = [
    "CRITERIA",
    "DCA",
    "DCP",
    "DFDR",
    "FDR",
    "L1",
    "TFDR",
    "ActivationMean",
    "ActivationVariance",
    "BNScale",
    "Bootstrap",
    "CherryPicking",
    "Criterion",
    "DeepLDA",
    "DiLOSS",
    "ExactDI",
    "GeometricMedian",
    "Granular",
    "GroupL2",
    "GroupScore",
    "LatentUtility",
    "LayerInformation",
    "Magnitude",
    "NotScoredError",
    "Random",
    "RidgeLSE",
    "Scores",
    "Sparsity",
    "StackedConsumer",
    "Structural",
    "Taylor",
    "best_units",
    "class_scores",
    "deleterious",
    "dfdr",
    "discriminant_information",
    "discriminant_matrix",
    "han_sparsity",
    "has_intervals",
    "kung_tian",
    "latent_utility",
    "make_criterion",
    "needs_of",
    "otsu_threshold",
    "rank_layers",
    "regression_matrix",
    "ridge_lse",
    "score",
    "sort_layers",
    "subspace_information",
]


def make_criterion(name: str, **options: Any) -> Criterion:
    """Build a criterion of `CRITERIA`.

    Raises:
        UnknownNameError: lists the known criteria.
        ConfigError: the criterion has no such option.
    """
    kind = CRITERIA[name]
    try:
        return cast(Criterion, kind(**options))
    except TypeError as error:
        raise ConfigError(f"criterion {name!r}: {error}") from error


def score(
    groups: Groups,
    statistics: Statistics,
    criterion: str | Criterion = "stacked",
    intervals: bool = False,
    **options: Any,
) -> Scores:
    """Score every unit of every group.

    Args:
        criterion: a name of `CRITERIA`, or any object of the `Criterion` protocol.
        intervals: also score without each of the statistics' K blocks, along the same order, so
            that `GroupScore.interval` knows the jackknife interval of each cost. Costs K more
            scorings and no pass over the data.
        options: passed to the criterion when it is given by name.

    Raises:
        UnknownNameError: lists the known criteria.
        ConfigError: the criterion has no such option, the statistics lack what it needs, or
            intervals were asked of one block.
    """
    if isinstance(criterion, str):
        name, rule = criterion, make_criterion(criterion, **options)
    else:
        name, rule = type(criterion).__name__, criterion
    scored: dict[str, GroupScore] = {}
    skipped, read = {}, []
    for group in groups:
        if rule.needs_statistics and not _is_read(groups, group, statistics):
            skipped[group.name] = (
                "no reader has statistics: too wide for a Gram matrix (feature_limit), or not run"
            )
        else:
            read.append(group)
    with one_blas_thread():
        for family in families_of(rule, read, statistics):
            try:
                scored |= score_family(rule, groups, family, statistics)
            except NotScoredError as reason:
                skipped |= {group.name: str(reason) for group in family}
        scored = {group.name: scored[group.name] for group in read if group.name in scored}
        if intervals:
            scored = add_replicates(groups, statistics, rule, scored)
    return Scores(scored, name, rule.unit, rule.comparable, skipped)


def _is_read(groups: Groups, group: Group, statistics: Statistics) -> bool:
    """Tell whether any consumer of a group has statistics."""
    if statistics.duals:
        return any(member.module in statistics.duals for member in group.consumers)
    return any(reads(groups, member, statistics) for member in group.consumers)
