"""Statistics and read-only weights → what each unit is worth."""

from __future__ import annotations

from typing import Any, cast

from prunus.core.errors import ConfigError
from prunus.criteria.baselines import L1, GroupL2, Random
from prunus.criteria.elimination import ExactDI, StackedConsumer, readable
from prunus.criteria.fisher import FDR, DiLOSS
from prunus.criteria.scores import CRITERIA, Criterion, GroupScore, Scores
from prunus.graph import Groups
from prunus.statistics import Statistics

__all__ = [
    "CRITERIA",
    "FDR",
    "L1",
    "Criterion",
    "DiLOSS",
    "ExactDI",
    "GroupL2",
    "GroupScore",
    "Random",
    "Scores",
    "StackedConsumer",
    "make_criterion",
    "score",
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
    groups: Groups, statistics: Statistics, criterion: str | Criterion = "stacked", **options: Any
) -> Scores:
    """Score every unit of every group.

    Args:
        criterion: a name of `CRITERIA`, or any object of the `Criterion` protocol.
        options: passed to the criterion when it is given by name.

    Raises:
        UnknownNameError: lists the known criteria.
        ConfigError: the criterion has no such option.
    """
    if isinstance(criterion, str):
        name, rule = criterion, make_criterion(criterion, **options)
    else:
        name, rule = type(criterion).__name__, criterion
    scored, skipped = {}, {}
    for group in groups:
        if rule.needs_statistics and not readable(groups, group, statistics):
            skipped[group.name] = (
                "no reader has statistics: too wide for a Gram matrix (feature_limit), or not run"
            )
        else:
            scored[group.name] = rule(groups, group, statistics)
    return Scores(scored, name, rule.unit, rule.comparable, skipped)
