"""Two plans of one network: which units only one of them removes, compared with chance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.core import PlanError
from prunus.plan.plan import Edit, Plan

__all__ = ["GroupDifference", "PlanDifference", "compare_plans"]

#: Probabilities below this count as 0.
NEGLIGIBLE = 1e-18


@dataclass(frozen=True, kw_only=True)
class GroupDifference:
    """How two plans treat the `units` of one group: indices of the dense network, in order."""

    group: str
    units: int
    both: tuple[int, ...]
    a_alone: tuple[int, ...]
    b_alone: tuple[int, ...]

    @property
    def kept(self) -> int:
        """The number of units that both plans keep."""
        return self.units - len(self.both) - self.differing

    @property
    def differing(self) -> int:
        """The number of units that one plan removes and the other keeps."""
        return len(self.a_alone) + len(self.b_alone)


@dataclass(frozen=True, kw_only=True)
class PlanDifference:
    """What `compare_plans` found.

    Attributes:
        groups: every group that either plan names; those that differ most come first.
        only_a, only_b: the groups that one plan cuts and the other keeps whole.
        modules: the modules that lose different channels, or lose some in only one plan.
        expected: the Jaccard index that `chance_agreement` expects.
    """

    groups: tuple[GroupDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    modules: tuple[str, ...]
    expected: float

    @property
    def same(self) -> bool:
        """Whether both plans remove the same units and the same channels."""
        return not self.modules and not any(row.differing for row in self.groups)

    @property
    def units(self) -> int:
        """Units of all groups that either plan names."""
        return sum(row.units for row in self.groups)

    @property
    def removed(self) -> tuple[int, int]:
        """Units that A removes, and units that B removes."""
        both = sum(len(row.both) for row in self.groups)
        a_alone = sum(len(row.a_alone) for row in self.groups)
        return both + a_alone, both + sum(len(row.b_alone) for row in self.groups)

    @property
    def jaccard(self) -> float:
        """|A ∩ B| / |A ∪ B| of the units removed; 1 where neither plan removes any."""
        both = sum(len(row.both) for row in self.groups)
        union = both + sum(row.differing for row in self.groups)
        return both / union if union else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `prunus diff --json` prints them."""
        return {
            "same": self.same,
            "units": self.units,
            "removed": dict(zip("ab", self.removed, strict=True)),
            "jaccard": self.jaccard,
            "jaccard_by_chance": self.expected,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "modules": list(self.modules),
            "groups": [
                {
                    **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(row).items()},
                    "kept": row.kept,
                }
                for row in self.groups
            ],
        }


def compare_plans(a: Plan, b: Plan) -> PlanDifference:
    """Return which units plan `a` removes and `b` keeps, and vice versa.

    A plan keeps all units of a group that it does not name.

    Raises:
        PlanError: the plans belong to different networks, or one removes a unit that does not
            exist.

    Example:
        >>> a, b = (Plan({"conv1": Edit(6, gone)}) for gone in ((0, 1, 2), (2, 3)))
        >>> found = compare_plans(a, b)
        >>> found.groups[0].a_alone, found.groups[0].b_alone, found.jaccard
        ((0, 1), (3,), 0.25)
    """
    names = sorted({*a.groups, *b.groups})
    rows = [_compare(name, a.groups.get(name), b.groups.get(name)) for name in names]
    edits = [_channels(plan) for plan in (a, b)]
    modules = set()
    for name, axis in {**edits[0], **edits[1]}:
        first, second = (side.get((name, axis)) for side in edits)
        row = _compare(f"{name} ({axis})", first, second, noun="channels")
        if row.differing:
            modules.add(name)
    return PlanDifference(
        groups=tuple(sorted(rows, key=lambda row: (-row.differing, row.group))),
        only_a=tuple(row.group for row in rows if row.a_alone and not (row.both or row.b_alone)),
        only_b=tuple(row.group for row in rows if row.b_alone and not (row.both or row.a_alone)),
        modules=tuple(sorted(modules)),
        expected=chance_agreement(
            (row.units, len(row.both) + len(row.a_alone), len(row.both) + len(row.b_alone))
            for row in rows
        ),
    )


def chance_agreement(counts: Iterable[tuple[int, int, int]]) -> float:
    """Return the mean Jaccard index of two independent random removals.

    Of the n_g units of group g, one takes a_g and the other b_g, all choices equally likely:
    E[I / (Σ_g a_g + Σ_g b_g − I)] with I = Σ_g I_g and I_g ~ Hypergeometric(n_g, a_g, b_g).

    Args:
        counts: n, a and b of each group.
    """
    removed = 0
    chance: NDArray[np.float64] = np.ones(1)
    for units, first, second in counts:
        removed += first + second
        chance = np.convolve(chance, _overlap(units, first, second))
        chance[chance < NEGLIGIBLE] = 0.0
    if not removed:
        return 1.0
    overlap = np.arange(len(chance))
    return float((chance * overlap / (removed - overlap)).sum() / chance.sum())


def _overlap(units: int, first: int, second: int) -> NDArray[np.float64]:
    """Return the hypergeometric probabilities that both choices share 0, 1, … units."""
    found = np.zeros(min(first, second) + 1)
    whole = _log_choose(units, second)
    for k in range(max(0, first + second - units), len(found)):
        found[k] = math.exp(_log_choose(first, k) + _log_choose(units - first, second - k) - whole)
    return found


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _channels(plan: Plan) -> dict[tuple[str, str], Edit]:
    """Return the edits by module and axis; `select` omits what never arrives.

    Plans made in one step and in several write this differently but cut the same.
    """
    edits = {(n, axis): edit for n, axes in plan.modules.items() for axis, edit in axes.items()}
    for (name, axis), edit in edits.items():
        if axis == "select" and (arriving := edits.get((name, "in"))) is not None:
            lost = set(arriving.removed)
            edits[name, axis] = Edit(edit.of, tuple(i for i in edit.removed if i not in lost))
    return edits


def _compare(name: str, a: Edit | None, b: Edit | None, *, noun: str = "units") -> GroupDifference:
    known = a or b
    assert known is not None
    if a is not None and b is not None and a.of != b.of:
        raise PlanError(
            f"these plans belong to different networks: {name} has {a.of} {noun} in A and {b.of} "
            "in "
            "B; give two runs of the same network"
        )
    first, second = (set(edit.removed if edit else ()) for edit in (a, b))
    if wrong := [i for i in sorted(first | second) if not 0 <= i < known.of]:
        side = "A" if wrong[0] in first else "B"
        raise PlanError(
            f"plan {side} removes {wrong[0]} of the {known.of} {noun} of {name}, counted from 0: "
            "it was edited or belongs to another network; give a plan.json that a run wrote"
        )
    return GroupDifference(
        group=name,
        units=known.of,
        both=tuple(sorted(first & second)),
        a_alone=tuple(sorted(first - second)),
        b_alone=tuple(sorted(second - first)),
    )
