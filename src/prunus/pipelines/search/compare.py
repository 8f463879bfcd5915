"""Networks of a search at equal size: the lead of the derived ones over each rival."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from prunus.core import DERIVED, latest

__all__ = ["compare", "curve_of", "lead"]

Row = dict[str, Any]

#: Sizes up to this factor beyond the ends of a curve count as its ends: a budget is met to within
#: a unit or two, so networks pruned to the same budget differ by that much.
SLACK = 1.02


def curve_of(rows: Sequence[Row], currency: str) -> list[tuple[float, float]]:
    """Return (cost, validation accuracy) of an arm's `latest` networks, cheapest first."""
    return sorted((row[currency], row["validation_accuracy"]) for row in latest(rows, currency))


def lead(curve: Sequence[tuple[float, float]], row: Row, currency: str) -> float | None:
    """Return how far `curve` is above a network at its cost, in accuracy; None outside of it.

    Between its networks the curve is linear in the logarithm of the cost; up to 2 % beyond its
    ends it is constant.

    Example:
        >>> row = {"params": 20, "validation_accuracy": 0.9}
        >>> round(lead([(10, 0.92), (40, 0.98)], row, "params"), 3)
        0.05
    """
    costs, accuracies = zip(*curve, strict=True)
    cost = row[currency]
    if not costs[0] / SLACK <= cost <= costs[-1] * SLACK:
        return None
    at = float(np.interp(np.log(cost), np.log(costs), accuracies))
    return at - float(row["validation_accuracy"])


def compare(rows: Sequence[Row], currency: str) -> list[Row]:
    """Return one row per rival: the lead of the derived curve at equal cost, on validation.

    Networks trained for fewer epochs than the final derived one are not compared. `points` is the
    number of the rival's networks within the costs of the curve, `left_out` of those beyond; the
    leads are None if none is within.
    """
    epochs = max(row["epochs"] for row in rows if row["arm"] == DERIVED)
    rows = [row for row in rows if row["epochs"] >= epochs]
    derived = curve_of([row for row in rows if row["arm"] == DERIVED], currency)
    found = []
    for arm in dict.fromkeys(row["arm"] for row in rows if row["arm"] != DERIVED):
        mine = latest([row for row in rows if row["arm"] == arm], currency)
        leads = [gap for row in mine if (gap := lead(derived, row, currency)) is not None]
        found.append(
            {
                "arm": arm,
                "currency": currency,
                "points": len(leads),
                "left_out": len(mine) - len(leads),
                "lead": fmean(leads) if leads else None,
                "least": min(leads, default=None),
                "most": max(leads, default=None),
            }
        )
    return found
