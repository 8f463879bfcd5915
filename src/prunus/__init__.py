"""Prunus learns the structure of neural networks.

groups  = prunus.find_groups(model, example)
scatter = prunus.collect(model, loader, groups)
scores  = prunus.score(groups, scatter, "stacked")
plan    = prunus.make_plan(groups, scores, "macs=50%")
receipt = prunus.apply_(model, plan, scatter)
record  = prunus.fit_(model, loader, prunus.TrainConfig(epochs=5))
model, report = prunus.prune(model, loader, budget="macs=50%")  # all of it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunus.core import PrunusError
    from prunus.criteria import latent_utility, rank_layers, score
    from prunus.evaluation import LatencyTable, measure_latency_table
    from prunus.graph import find_groups
    from prunus.pipelines import PruneConfig, RunConfig, diagnose, load, prune, run_prune
    from prunus.plan import Plan, make_plan, predict_loss
    from prunus.statistics import collect, trace_utility
    from prunus.surgery import apply_, undo_
    from prunus.training import TrainConfig, fit_

    __version__: str

__all__ = [
    "LatencyTable",
    "Plan",
    "PruneConfig",
    "PrunusError",
    "RunConfig",
    "TrainConfig",
    "apply_",
    "collect",
    "diagnose",
    "find_groups",
    "fit_",
    "latent_utility",
    "load",
    "make_plan",
    "measure_latency_table",
    "predict_loss",
    "prune",
    "rank_layers",
    "run_prune",
    "score",
    "trace_utility",
    "undo_",
]

_ROOMS = {
    "LatencyTable": "evaluation",
    "Plan": "plan",
    "PruneConfig": "pipelines",
    "PrunusError": "core",
    "RunConfig": "pipelines",
    "TrainConfig": "training",
    "apply_": "surgery",
    "collect": "statistics",
    "diagnose": "pipelines",
    "find_groups": "graph",
    "fit_": "training",
    "latent_utility": "criteria",
    "load": "runs",
    "make_plan": "plan",
    "measure_latency_table": "evaluation",
    "predict_loss": "plan",
    "prune": "pipelines",
    "rank_layers": "criteria",
    "run_prune": "pipelines",
    "score": "criteria",
    "trace_utility": "statistics",
    "undo_": "surgery",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing stays light."""
    if name == "__version__":
        from prunus.core import installed_version  # noqa: PLC0415 - only where asked for

        return installed_version()
    if name not in _ROOMS:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"prunus.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
