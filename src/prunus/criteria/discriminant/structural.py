"""Structural energy E_S = DI − λ‖a‖₀: which units are worth less than they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy.stats import chi2
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.discriminant.elimination import Elimination, discriminant_inverse
from prunus.criteria.discriminant.information import discriminant_information
from prunus.criteria.families import consumers_of
from prunus.criteria.scores import CRITERIA, GroupScore, positive
from prunus.graph import Consumer, Group, Groups
from prunus.statistics import Scatter, Statistics

__all__ = ["Structural", "calibrate", "deleterious"]


@CRITERIA.register("structural")
class Structural(Elimination):
    """Exact loss of DI in units of λ: a unit is deleterious if its value is below 1.

    E_S = DI − λ‖a‖₀ changes by λ − |ΔDI_i| when unit i is removed [Kung-Hou, eq. 16–18], so E_S
    rises as long as ΔDI_i/λ < 1. The paper uses the derivative DiLOSS for ΔDI (eq. 23); here it is
    exact and greedy, theory.md (23). λ "needs to be empirically and independently specified for
    each layer" (§4.3): given, or by `calibrate`. DI is not normalised, and several consumers add
    up.
    """

    unit = "discriminant information lost, in units of λ"

    def __init__(
        self,
        lam: float | Mapping[str, float] | None = None,
        ridge: float = 1e-3,
        rounds: int = 1024,
        level: float = 0.95,
    ) -> None:
        """`lam` is λ, one number or one per group; by default `calibrate` sets it at `level`."""
        super().__init__(ridge, rounds)
        for value in lam.values() if isinstance(lam, Mapping) else [lam] * (lam is not None):
            positive("lam", value)  # type: ignore[arg-type]
        if not 0 < level < 1:
            raise ConfigError(f"level is {level}, expected between 0 and 1")
        self.lam, self.level = lam, level

    def jointly(
        self,
        groups: Groups,
        family: Sequence[Group],
        statistics: Statistics,
        order: Tensor | None = None,
    ) -> dict[str, GroupScore]:
        """Score groups that common consumers read, each in units of its own λ."""
        found = super().jointly(groups, family, statistics, order)
        lam = {group.name: self.threshold(groups, group, statistics) for group in family}
        return {
            name: replace(GroupScore.of(score.costs / lam[name], score.order), steps=score.steps)
            for name, score in found.items()
        }

    def threshold(self, groups: Groups, group: Group, statistics: Statistics) -> float:
        """Return λ of one group.

        Raises:
            ConfigError: λ was given by group, but not for this one.
        """
        if self.lam is None:
            return calibrate(groups, group, statistics, self.ridge, self.level)
        if not isinstance(self.lam, Mapping):
            return float(self.lam)
        if group.name not in self.lam:
            raise ConfigError(
                f"lam has no λ for group {group.name!r}: it has {', '.join(sorted(self.lam))}"
            )
        return float(self.lam[group.name])

    def coefficients(
        self, groups: Groups, statistics: Statistics, consumer: Consumer, scatter: Scatter
    ) -> tuple[Tensor, Tensor]:
        """Return M⁻¹ and G."""
        return discriminant_inverse(scatter, self.ridge)


def calibrate(
    groups: Groups,
    group: Group,
    statistics: Statistics,
    ridge: float = 1e-3,
    level: float = 0.95,
) -> float:
    """Return λ of a group: the ΔDI that an uninformative unit shows by chance.

    With labels shuffled, E[DDᵀ] = tr(YYᵀ)/(n−1)·S, so a feature gains ν = tr(YYᵀ)/(n−1) on
    average, n the number of independent samples; pixels of one image are not independent, so n is
    between images and samples. It is estimated from the jackknife's bias of DI, ν = (K−1)(mean_k
    DI_(k) − DI)/F, clamped to these two limits. ΔDI of a unit of k such features is ν/q·χ² with q·k
    degrees of freedom, q the rank of the teacher; λ is its quantile at `level`, summed over the
    consumers. A reconstruction of ours, theory.md (24); [Kung-Hou, section 4.3] leaves λ to trial.
    """
    total = 0.0
    for consumer, scatter, blocks in consumers_of(groups, [group], statistics):
        alive = int((~scatter.constant).sum())
        q = max(round(scatter.trace_YY), 1) if scatter.discrete else len(scatter.teacher_total)
        k = max(float((blocks >= 0).sum() / len(blocks)), 1e-12)
        least, most = (scatter.trace_YY / max(n - 1, 1.0) for n in _sizes(scatter, statistics))
        noise = most
        if statistics.blocks > 2:
            whole = discriminant_information(scatter, ridge)
            parts = [
                discriminant_information(statistics.leave_out(b)[consumer.module], ridge)
                for b in range(statistics.blocks)
            ]
            bias = (len(parts) - 1) * (sum(parts) / len(parts) - whole)
            noise = min(max(bias / max(alive, 1), least), most)
        total += noise / q * float(chi2.ppf(level, q * k))
    return max(total, 1e-12)


def _sizes(scatter: Scatter, statistics: Statistics) -> tuple[float, float]:
    """Return the largest and the smallest possible number of independent samples."""
    return scatter.samples, min(float(statistics.images), scatter.samples)


def deleterious(
    groups: Groups,
    statistics: Statistics,
    lam: float | Mapping[str, float] | None = None,
    **options: float,
) -> dict[str, Tensor]:
    """Return, by group, the units whose removal, one after the other, raises E_S.

    In removal order, int64: the longest start of the greedy order with every ΔDI_i < λ
    [Kung-Hou, eq. 23], with the exact ΔDI. `options` are those of `Structural`. All units of a
    group may be deleterious; the plan decides what must be kept.
    """
    rule = Structural(lam, **options)  # type: ignore[arg-type]
    found = {}
    for group in groups.values():
        if consumers_of(groups, [group], statistics):
            score = rule(groups, group, statistics)
            found[group.name] = score.order[score.values[score.order] < 1]
    return found
