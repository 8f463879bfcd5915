"""Scores and ranked layers → the plain values of `scores.json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from prunus.criteria import LayerInformation, Scores
from prunus.graph import Groups
from prunus.pipelines.score_config import ScoreConfig
from prunus.statistics import Statistics

__all__ = ["score_content"]

#: Format version of `scores.json`; raised when a key changes its meaning.
VERSION = 1


def score_content(
    config: ScoreConfig,
    groups: Groups,
    statistics: Statistics,
    layers: list[LayerInformation],
    scores: Scores,
) -> dict[str, Any]:
    """Return `scores.json`: the same network, images and settings give the same bytes."""
    scored = [group for group in groups if group.name in scores.groups]
    return {
        "version": VERSION,
        "model": config.model,
        "data": config.data,
        "weights": config.weights,
        "run": config.run,
        "criterion": config.criterion,
        "options": config.options,
        "unit": scores.unit,
        "comparable": scores.comparable,
        "sampling": statistics.sampling,
        "images": statistics.images,
        "blocks": statistics.blocks,
        "level": config.level,
        "layers": [
            {key: _finite(value) for key, value in asdict(layer).items()} for layer in layers
        ],
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "units": group.units,
                "consumers": [member.module for member in group.consumers],
                **_numbers(scores, group.name, config.level),
            }
            for group in scored
        ],
        "skipped": [{"module": name, "reason": why} for name, why in scores.skipped.items()],
        "unprunable": [asdict(one) for one in groups.unprunable],
    }


def _numbers(scores: Scores, name: str, level: float) -> dict[str, list[Any]]:
    one = scores[name]
    low, high = one.interval(level)
    columns = {"values": one.values, "costs": one.costs, "low": low, "high": high}
    return {
        "order": one.order.tolist(),
        **{key: [_finite(v) for v in column.tolist()] for key, column in columns.items()},
    }


def _finite(value: Any) -> Any:
    """Return None for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
