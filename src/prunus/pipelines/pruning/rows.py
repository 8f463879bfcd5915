"""The results of the phases of a run as rows of the journal: plain values, null for NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from prunus.criteria import LayerInformation, Scores
from prunus.graph import Groups
from prunus.plan import Plan, Prediction

__all__ = [
    "describe_groups",
    "information_row",
    "prediction_row",
    "say_costs",
    "say_latency",
    "say_prediction",
    "say_targets",
    "score_rows",
]

#: Bars of a score histogram.
BINS = 24


def describe_groups(groups: Groups) -> dict[str, Any]:
    """Return the groups and what cannot be pruned."""
    return {
        "groups": [
            {
                "name": g.name,
                "kind": g.kind,
                "units": g.units,
                "consumers": [m.module for m in g.consumers],
            }
            for g in groups.values()
        ],
        "unprunable": [{"module": u.module, "reason": u.reason} for u in groups.unprunable],
        **({"baked": groups.baked} if groups.baked else {}),
    }


def score_rows(groups: Groups, scores: Scores, plan: Plan) -> list[dict[str, Any]]:
    """Return, for each group, the distribution of scores over kept and removed units."""
    rows = []
    for group in groups.values():
        edit = plan.groups.get(group.name)
        removed = np.zeros(group.units, dtype=bool)
        removed[list(edit.removed) if edit else []] = True
        row: dict[str, Any] = {
            "name": group.name,
            "units": group.units,
            "before": group.units,
            "after": int((~removed).sum()),
            "score_unit": scores.unit,
        }
        if group.name in scores.groups:
            values = torch.nan_to_num(scores[group.name].values).numpy()
            edges = np.histogram_bin_edges(values, bins=BINS)
            row["histogram"] = {
                "edges": edges.tolist(),
                "kept": np.histogram(values[~removed], edges)[0].tolist(),
                "removed": np.histogram(values[removed], edges)[0].tolist(),
            }
        else:
            row["not_scored"] = scores.skipped[group.name]
        rows.append(row)
    return rows


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """Return a predicted loss with its interval."""
    return {
        "total": _finite(prediction.total),
        "low": _finite(prediction.low),
        "high": _finite(prediction.high),
        "unit": prediction.unit,
        "comparable": prediction.comparable,
    }


def say_prediction(row: Mapping[str, Any]) -> str:
    """Return `predicted loss 0.031 (0.028–0.034), share of …`."""
    text = "predicted loss " + ("unknown" if row["total"] is None else f"{row['total']:.3g}")
    if row["low"] is not None and row["high"] is not None:
        text += f" ({row['low']:.3g}–{row['high']:.3g})"
    scale = "" if row["comparable"] else ", summed over different scales"
    return f"{text}, {row['unit']}{scale}"


def say_targets(targets: Mapping[str, float]) -> str:
    """Return `macs ≤ 1,200, ms ≤ 0.35`."""
    return ", ".join(
        f"{currency} ≤ {limit:.4g}" if currency == "ms" else f"{currency} ≤ {limit:,}"
        for currency, limit in targets.items()
    )


def say_costs(costs: Mapping[str, float], asked: Iterable[str]) -> str:
    """Return `1200 parameters, 34000 MACs` and the other currencies in `asked`."""
    text = f"{costs['params']} parameters, {costs['macs']} MACs"
    if "bytes" in asked:
        text += f", {costs['bytes']} bytes"
    return text + (f", {costs['ms']:.4g} ms predicted" if "ms" in asked else "")


def say_latency(result: Mapping[str, Any], timing: Mapping[str, Any], batch: int) -> str:
    """Return the predicted next to the measured latency of both networks."""
    measured = timing["batches"][str(batch)]
    words = [
        f"{name} {result[name]['predicted_ms']:.3g} ms, measured "
        f"{1e3 * measured[name]['median']:.3g} ms"
        for name in ("dense", "pruned")
    ]
    return f"predicted by the latency table at batch {batch}: {'; '.join(words)}"


def information_row(layers: list[LayerInformation]) -> dict[str, Any]:
    """Return the share of the labels that every layer's input explains, in execution order."""
    return {
        "layers": [
            {key: _finite(value) for key, value in asdict(layer).items() if key != "information"}
            for layer in layers
        ]
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
