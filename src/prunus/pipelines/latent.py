"""Tracing as a step of other pipelines: choose latent dimensions, trace them, record it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunus.criteria import LatentUtility, latent_utility
from prunus.evaluation import enough_dimensions, latent_curve
from prunus.graph import Groups
from prunus.runs import LatentConfig, Loader
from prunus.statistics import Statistics, trace_utility

__all__ = ["add_traces", "choose_dimensions", "principal_components"]

#: Maximum number of counts of latent dimensions at which accuracy is measured.
POINTS = 64


def add_traces(
    model: nn.Module,
    groups: Groups,
    statistics: Statistics,
    config: LatentConfig,
    *,
    calibration: Loader,
    validation: Loader,
    progress: Callable[[Any], Any] | None = None,
) -> tuple[Statistics, dict[str, Any]]:
    """Return the statistics with traces of the latent dimensions chosen by `config`, and a row.

    The row has the number of dimensions and of those chosen, the method, the accuracy of every
    choice tested, and the number of images traced. It takes one pass over `validation` for
    `sensitivity`, and a forward and backward pass over the images traced.

    Raises:
        ConfigError, DataError: see `latent_utility`, `latent_curve` and `trace_utility`.
    """
    latent = latent_utility(groups, statistics)
    kept, row = choose_dimensions(model, groups, latent, config, validation)
    traces = trace_utility(
        model,
        calibration,
        groups,
        kept,
        rule=config.rule,
        images_a_class=config.images_a_class,
        progress=progress,
    )
    return statistics.with_traces(traces), {
        **row,
        "rule": config.rule,
        "traced_images": traces.images,
    }


def choose_dimensions(
    model: nn.Module,
    groups: Groups,
    latent: LatentUtility,
    config: LatentConfig,
    validation: Loader,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the latent dimensions to keep, and a row that records how they were chosen."""
    width = len(latent.values)
    row: dict[str, Any] = {
        "head": latent.module,
        "width": width,
        "constant": int(latent.constant.sum()),
        "copies": int(latent.copy.sum()),
        "by": config.select,
        "values": latent.values[latent.order].tolist(),
        "discriminants": latent.eigenvalues.tolist(),
    }
    if config.select == "sensitivity":
        counts = _counts(width)
        identity = torch.eye(width, dtype=torch.float64)
        bases = {
            "lda": (identity[:, latent.order], torch.zeros(width, dtype=torch.float64)),
            "pca": principal_components(latent),
        }
        curves = latent_curve(model, validation, groups, bases, counts)
        kept = latent.top(enough_dimensions(counts, curves["lda"], config.drop))
        row |= {"counts": counts, "accuracy": curves}
    elif config.select == "otsu":
        kept = latent.otsu()
    elif config.select == "all":
        kept = latent.top(width)
    else:
        kept = latent.top(int(config.select))
    return kept, {**row, "kept": len(kept)}


def principal_components(latent: LatentUtility) -> tuple[Tensor, Tensor]:
    """Return the principal components of the latent features, largest first, and the mean.

    The label-blind baseline of [Tian, section 3.3.5]. Shapes: (F, F), components as columns; (F,).
    """
    total, _, _ = latent.covariances
    _, vectors = torch.linalg.eigh(total)
    return vectors.flip(1), latent.scatter.mean


def _counts(width: int) -> list[int]:
    """Return 1 … `width`, thinned out to about `POINTS` logarithmically spaced numbers."""
    if width <= POINTS:
        return list(range(1, width + 1))
    found = torch.logspace(0, 1, POINTS, base=float(width), dtype=torch.float64)
    return sorted({round(float(n)) for n in found} | {width})
