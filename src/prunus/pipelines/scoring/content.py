"""Scores and ranked layers → the plain values of `scores.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria import LayerInformation, Scores, latent_utility
from prunus.graph import Groups
from prunus.pipelines.scoring.config import ScoreConfig
from prunus.statistics import Statistics

__all__ = ["score_content"]

#: Format version of `scores.json`; raised when a key changes its meaning.
VERSION = 1
#: Maximum rows and columns of a covariance in the file; with more dimensions, blocks are averaged.
CELLS = 96


def score_content(
    config: ScoreConfig,
    groups: Groups,
    statistics: Statistics,
    layers: list[LayerInformation],
    scores: Scores,
    traced: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return `scores.json`: the same network, images and settings give the same bytes.

    `traced` is the row of `add_traces`, if the criterion uses latent dimensions.
    """
    scored = [group for group in groups.values() if group.name in scores.groups]
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
        "approximate": [
            {"module": name, "reason": why} for name, why in scores.approximate.items()
        ],
        "unprunable": [asdict(one) for one in groups.unprunable],
        "latent": _latent(groups, statistics, traced),
    }


def _latent(
    groups: Groups, statistics: Statistics, traced: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the class information of the last hidden layer; `absent` is why there is none.

    Dimensions are in order of decreasing utility. The covariances are those of the `drawn` ones,
    which are neither constant nor copies; with more than `CELLS` of them, a cell is the mean
    magnitude of a block of `block` × `block` entries.
    """
    try:
        latent = latent_utility(groups, statistics)
    except ConfigError as error:
        return {"absent": str(error)}
    order = latent.order
    drawn = order[~(latent.constant | latent.copy)[order]]
    block = max(-(-len(drawn) // CELLS), 1)
    names = ("total", "within", "between")
    chosen = ("by", "kept", "traced_images", "counts", "accuracy")
    return {
        "head": latent.module,
        "dimensions": len(order),
        "classes": int((latent.scatter.teacher_total > 0).sum()),
        "constant": int(latent.constant.sum()),
        "copies": int(latent.copy.sum()),
        "order": order.tolist(),
        "values": latent.values[order].tolist(),
        "discriminants": latent.eigenvalues.tolist(),
        "drawn": len(drawn),
        "block": block,
        "covariances": {
            name: _covariance(matrix[drawn][:, drawn], block)
            for name, matrix in zip(names, latent.covariances, strict=True)
        },
        "traced": traced and {key: traced[key] for key in chosen if key in traced},
    }


def _covariance(matrix: Tensor, block: int) -> dict[str, Any]:
    """Return a covariance as cells of 5 digits, and the mean magnitude on and off its diagonal."""
    F = len(matrix)
    if not F:
        return {"cells": [], "diagonal": 0.0, "beside": 0.0}
    diagonal = float(matrix.diagonal().abs().sum())
    beside = float(matrix.abs().sum()) - diagonal
    if block > 1:
        member = torch.arange(F) // block
        mean = torch.zeros(int(member[-1]) + 1, F, dtype=matrix.dtype)
        mean[member, torch.arange(F)] = 1 / member.bincount().to(matrix.dtype)[member]
        matrix = mean @ matrix.abs() @ mean.T
    return {
        "cells": [[float(f"{cell:.5g}") for cell in row] for row in matrix.tolist()],
        "diagonal": diagonal / F,
        "beside": max(beside, 0.0) / max(F * (F - 1), 1),
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
