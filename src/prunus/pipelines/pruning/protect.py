"""Units that a kept class needs: determined once, on the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunus.criteria import best_units
from prunus.graph import Groups
from prunus.plan import Plan
from prunus.runs import PruneConfig, Session
from prunus.statistics import collect

__all__ = ["find_protected", "still_protected"]

Units = Mapping[str, list[int]]


def find_protected(
    dense: nn.Module, groups: Groups, config: PruneConfig, session: Session
) -> Units:
    """Return, by group, the units of the dense network that are among the best for a kept class.

    It takes a separate pass over the calibration images and is journalled; nothing is done without
    `keep_class`.
    """
    if not config.keep_class:
        return {}
    found = session.journal.record.find("protected")
    if found is None:
        statistics = collect(
            dense,
            session.loaders.calibration,
            groups,
            sampling="pixel",
            blocks=1,
            batches=config.calibration_batches,
            progress=session.watch.batches("units of the kept classes"),
        )
        classes = [int(label) for label in config.keep_class]
        best = best_units(groups, statistics, classes, config.keep_share)
        row: dict[str, Any] = {
            "classes": classes,
            "groups": {name: units.tolist() for name, units in best.items()},
        }
        session.journal.append_once("protected", row)
        found = row
    units: Units = found["groups"]
    return units


def still_protected(protected: Units, plan: Plan, groups: Groups) -> dict[str, list[int]]:
    """Return protected units by their index in `groups`, the groups left after `plan`."""
    found = {}
    for group in groups.values():
        units, edit = protected.get(group.name, []), plan.groups.get(group.name)
        kept = edit.kept() if edit else range(group.units)
        place = {unit: at for at, unit in enumerate(kept)}
        found[group.name] = [place[unit] for unit in units if unit in place]
    return found
