"""Score the units of groups by a criterion, by name or as an object."""

from __future__ import annotations

from typing import Any, cast

from prunus.core import ConfigError, keeping_random_state, one_blas_thread
from prunus.criteria.families import families_of, has_samples, score_family
from prunus.criteria.intervals import add_replicates, has_intervals
from prunus.criteria.roots import one_scoring
from prunus.criteria.scores import CRITERIA, Criterion, GroupScore, NotScoredError, Scores
from prunus.graph import Group, Groups
from prunus.modules import RawAxis, module_at
from prunus.statistics import Sketch, Statistics

__all__ = ["make_criterion", "score"]


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


@keeping_random_state("score")
def score(
    groups: Groups,
    statistics: Statistics,
    criterion: str | Criterion = "stacked",
    intervals: bool | None = None,
    **options: Any,
) -> Scores:
    """Score every unit of every group.

    Args:
        criterion: a name of `CRITERIA`, or any object of the `Criterion` protocol.
        intervals: also score without each of the statistics' K blocks, along the same order, so
            that `GroupScore.interval` returns the jackknife interval of each cost. This takes K
            more scorings and no pass over the data. By default, if there are several blocks and
            the criterion has intervals.
        options: passed to the criterion if it is given by name.

    Raises:
        UnknownNameError: lists the known criteria.
        ConfigError: the criterion has no such option, the statistics lack what it needs, or
            intervals were requested with one block.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups)
        >>> prunus.score(groups, statistics, "fdr")["0"].order.shape
        torch.Size([8])
    """
    if isinstance(criterion, str):
        name, rule = criterion, make_criterion(criterion, **options)
    else:
        name, rule = type(criterion).__name__, criterion
    scored: dict[str, GroupScore] = {}
    skipped, read = {}, []
    for group in groups.values():
        if rule.needs_statistics and not _is_read(groups, group, statistics):
            skipped[group.name] = _unread(groups, group)
        else:
            read.append(group)
    with one_blas_thread(), one_scoring():
        for family in families_of(rule, read, statistics):
            try:
                scored |= score_family(rule, groups, family, statistics)
            except NotScoredError as reason:
                skipped |= {group.name: str(reason) for group in family}
        scored = {group.name: scored[group.name] for group in read if group.name in scored}
        if intervals is None:
            # a criterion that only reads weights may be given none
            given = statistics is not None
            intervals = given and statistics.blocks > 1 and has_intervals(rule)
        if intervals:
            scored = add_replicates(groups, statistics, rule, scored)
    about = {} if statistics is None else _sketched(groups, statistics)
    approximate = {name: why for name, why in about.items() if name in scored}
    return Scores(scored, name, rule.unit, rule.comparable, skipped, approximate)


def _sketched(groups: Groups, statistics: Statistics) -> dict[str, str]:
    """Return which groups are read by a layer whose sketch does not hold all of the scatter."""
    found: dict[str, str] = {}
    for group in groups.values():
        for member in group.consumers:
            scatter = statistics.get(member.module)
            if isinstance(scatter, Sketch) and scatter.outside:
                found[group.name] = (
                    f"{member.module} reads {scatter.features:,} features, whose scatter is kept "
                    f"in {len(scatter.rows)} rows and a diagonal: {scatter.outside:.1%} of it is "
                    "in the diagonal alone"
                )
    return found


def _unread(groups: Groups, group: Group) -> str:
    """Return why no consumer of a group has statistics."""
    if group.consumers:
        return (
            "no consumer has statistics: it is too wide for a Gram matrix (feature_limit), it did "
            "not run, or what it reads has no row for each image (routed tokens, learnt queries): "
            "criterion l1 or l2 scores it"
        )
    raw = [
        (member.module.rpartition(":")[0], module)
        for member in group.producers
        if isinstance(module := module_at(groups.model, member.module), RawAxis)
    ]
    readers = dict.fromkeys(
        name
        for name, axis in raw
        if axis.dim is not None and getattr(axis.owner, axis.key).dim() > 1
    )
    reads = "reads" if len(readers) == 1 else "read"
    read = f"only {' and '.join(readers)} {reads} it" if readers else "no layer reads it"
    return f"{read}, and no statistics are kept of that: criterion l1 or l2 scores it"


def _is_read(groups: Groups, group: Group, statistics: Statistics) -> bool:
    """Return whether any consumer of a group has statistics."""
    if statistics.duals:
        return any(member.module in statistics.duals for member in group.consumers)
    return any(has_samples(groups, member, statistics) for member in group.consumers)
