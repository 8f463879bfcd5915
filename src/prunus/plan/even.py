"""Choose the multiple that widths are rounded to from a latency table: `choose_round_to`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunus.evaluation import MULTIPLES, LatencyTable, excess_shares
from prunus.graph import Groups

__all__ = ["Evenness", "choose_round_to"]

#: Share of the layers' time that a multiple must save, since it makes a budget coarser.
LEAST_GAIN = 0.02
#: Least number of widths that half of the groups can choose from.
CHOICES = 4


@dataclass(frozen=True)
class Evenness:
    """A multiple for the widths, and why.

    Attributes:
        multiple: 1 if any width will do.
        excess: by multiple, what the widths between its multiples cost above them: a share of the
            time of the timed layers, with its 95 % interval (value, low, high).
        layers: how many layers were timed.
        reason: the choice in words.
    """

    multiple: int
    excess: dict[int, tuple[float, float, float]]
    layers: int
    reason: str


def choose_round_to(table: LatencyTable, groups: Groups) -> Evenness:
    """Choose the multiple of widths whose steps `table.steps` shows: 1, 4, 8 or 16.

    From 1 upwards, a coarser multiple replaces the current one if its excess (`excess_shares`) is
    larger by more than 2 %, by the lower end of a 95 % bootstrap interval over the rounds. So the
    smallest multiple wins that no coarser one beats by more than noise. A multiple above a quarter
    of the groups' median width is no candidate: too few widths would be left to choose from. The
    same table always gives the same choice. The rule is a reconstruction of ours.
    """
    if not table.steps:
        return Evenness(1, {}, 0, "any width: no prunable layer is wide enough to show steps")
    shares = excess_shares(table.steps)
    best, held = 1, np.zeros_like(shares[MULTIPLES[0]])
    widths = [group.units for group in groups.values() if not group.selects]
    widest = float(np.median(widths)) / CHOICES if widths else 0.0
    for multiple in MULTIPLES:
        if multiple > widest:
            break
        if np.quantile((shares[multiple] - held)[1:], 0.025) > LEAST_GAIN:
            best, held = multiple, shares[multiple]
    excess = {}
    for multiple, share in shares.items():
        low, high = np.quantile(share[1:], (0.025, 0.975))
        excess[multiple] = (float(share[0]), float(low), float(high))
    return Evenness(best, excess, len(table.steps), _say(best, excess, len(table.steps), widest))


def _say(
    best: int, excess: dict[int, tuple[float, float, float]], layers: int, widest: float
) -> str:
    costs = {
        multiple: f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        for multiple, (share, low, high) in excess.items()
    }
    where = f"of the time of the {layers} layers that were timed at widths in a row"
    if layers == 1:
        where = "of the time of the one layer that was timed at widths in a row"
    if best > 1:
        return f"multiples of {best}: widths between them cost {costs[best]} {where}"
    listed = ", ".join(f"multiples of {multiple} {cost}" for multiple, cost in costs.items())
    narrow = "" if widest >= MULTIPLES[-1] else f"; multiples above {widest:g} would be too coarse"
    return (
        f"any width: none saves more than {100 * LEAST_GAIN:.0f} % beyond noise ({listed}, "
        f"{where}){narrow}"
    )
