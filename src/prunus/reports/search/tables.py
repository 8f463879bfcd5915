"""Rows of a search's journal → the texts and tables of its page and of the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunus.core import DERIVED, PLAIN, Row, last, networks
from prunus.reports.numbers import counted, grouped, kept, percent, points

__all__ = [
    "NetworkRow",
    "arm_name",
    "arm_rows",
    "finished_of",
    "lead_text",
    "short_model",
    "standard_error",
    "verdict",
]

NAMES = {
    DERIVED: "derived: pushed, then pruned",
    PLAIN: "grown network, no push",
    "grown": "networks of the growing steps",
    "scratch": "derived structures from scratch",
    "fixed": "other networks",
    "deep_lda": "deep LDA without push",
    "activation_mean": "activation",
    "taylor": "Taylor",
    "l1": "L1",
    "l2": "L2",
}
#: Positions of the derived networks relative to a rival, in the order of the verdict.
PLACES = ("above", "below", "on par with")


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """One finished network on the page."""

    arm: str
    name: str
    params: str
    macs: str
    validation: str
    test: str
    epochs: str
    folder: str


def arm_name(arm: str) -> str:
    """Return the display name of an arm; a rival is named by its criterion."""
    criterion, slash, allocation = arm.partition("/")
    return NAMES.get(criterion, criterion) + (f" ({allocation} allocation)" if slash else "")


def finished_of(rows: Sequence[Row]) -> Row | None:
    """Return the finished derived network, or None."""
    found = [row for row in networks(rows) if row["arm"] == DERIVED and row["name"] == "finished"]
    return found[-1] if found else None


def arm_rows(rows: Sequence[Row]) -> list[NetworkRow]:
    """Return the finished networks: those with a test accuracy."""
    return [
        NetworkRow(
            arm=arm_name(row["arm"]),
            name=short_model(row["name"]),
            params=grouped(row["params"]),
            macs=grouped(row["macs"]),
            validation=percent(row["validation_accuracy"]),
            test=percent(row["test_accuracy"]),
            epochs=grouped(row["epochs"]),
            folder=row["folder"],
        )
        for row in networks(rows)
        if row["test_accuracy"] is not None
    ]


def short_model(name: str) -> str:
    """Return the name of a network without the folder of its source file."""
    return name.rpartition("/")[2]


def standard_error(rows: Sequence[Row]) -> float:
    """Return √(a(1 − a)/n), a the finished network's accuracy on n validation images.

    It is 0 before there is one, and for journals without n.
    """
    images, found = (last(rows, "start") or {}).get("validation_images"), finished_of(rows)
    if not images or found is None:
        return 0.0
    accuracy = found["validation_accuracy"]
    return math.sqrt(accuracy * (1 - accuracy) / images)


def lead_text(row: Row) -> str:
    """Return one comparison in words: the mean lead, its range, and what was omitted."""
    if row["lead"] is None:
        return "no network within the sizes of the derived ones"
    text = points(0.0, row["lead"])
    if row["points"] > 1:
        text += f" on average (from {points(0.0, row['least'])} to {points(0.0, row['most'])})"
    text += f", {counted(row['points'], 'network')}"
    if row["left_out"]:
        text += f"; {grouped(row['left_out'])} outside the sizes compared"
    return text


def verdict(rows: Sequence[Row]) -> str:
    """Return the search in one or two sentences."""
    start, found = last(rows, "start"), finished_of(rows)
    if start is None:
        return "The network has not finished growing."
    if found is None:
        return f"{short_model(start['model'])} is finished; its derived network is not yet."
    pushed = next(row for row in networks(rows) if row["arm"] == DERIVED)
    text = (
        f"{short_model(start['model'])} has {grouped(pushed['params'])} parameters; pushed and "
        "pruned it has "
        f"{grouped(found['params'])} ({kept(pushed['params'], found['params'])}) and a test "
        f"accuracy of {percent(found['test_accuracy'])}, before pruning "
        f"{percent(pushed['test_accuracy'])}."
    )
    comparison = last(rows, "comparison")
    if comparison is None:
        return text + " Its rivals are not finished."
    mine = [row for row in comparison["arms"] if row["currency"] == "params" and row["points"]]
    if not mine:
        return text
    noise = standard_error(rows)
    places: dict[str, list[str]] = {}
    for row in mine:
        lead = row["lead"]
        place = "above" if lead > noise else "below" if lead < -noise else "on par with"
        places.setdefault(place, []).append(arm_name(row["arm"]))
    sides = [f"{place} {_listed(places[place])}" for place in PLACES if place in places]
    text += " At equal parameters, averaged over validation, it is " + "; ".join(sides)
    if "on par with" in places:
        text += ", within a standard error"
    return text + "."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
