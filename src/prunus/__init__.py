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
    from prunus.batches import Batches, read
    from prunus.core import PrunusError
    from prunus.criteria import Scores, latent_utility, rank_layers, score
    from prunus.evaluation import LatencyTable, measure_latency_table
    from prunus.export import export
    from prunus.graph import Groups
    from prunus.pipelines import (
        Diagnosis,
        Evaluation,
        GrowConfig,
        Report,
        SearchConfig,
        diagnose,
        evaluate,
        grow,
        prune,
        push,
        search,
        train,
    )
    from prunus.plan import Budget, Plan, make_plan, predict_loss
    from prunus.runs import FinishedRun, PruneConfig, load
    from prunus.statistics import Statistics, collect, trace_utility
    from prunus.surgery import Receipt, apply_, find_groups, undo_, unsound_groups
    from prunus.training import PushConfig, TrainConfig, fit_

    __version__: str

__all__ = [
    "Batches",
    "Budget",
    "Diagnosis",
    "Evaluation",
    "FinishedRun",
    "Groups",
    "GrowConfig",
    "LatencyTable",
    "Plan",
    "PruneConfig",
    "PrunusError",
    "PushConfig",
    "Receipt",
    "Report",
    "Scores",
    "SearchConfig",
    "Statistics",
    "TrainConfig",
    "__version__",
    "apply_",
    "collect",
    "diagnose",
    "evaluate",
    "export",
    "find_groups",
    "fit_",
    "grow",
    "latent_utility",
    "load",
    "make_plan",
    "measure_latency_table",
    "predict_loss",
    "prune",
    "push",
    "rank_layers",
    "read",
    "score",
    "search",
    "trace_utility",
    "train",
    "undo_",
    "unsound_groups",
]

#: Where each public name lies.
_ROOMS = {
    "Batches": "batches",
    "Budget": "plan",
    "Diagnosis": "pipelines",
    "Evaluation": "pipelines",
    "FinishedRun": "runs",
    "Groups": "graph",
    "GrowConfig": "pipelines",
    "LatencyTable": "evaluation",
    "Plan": "plan",
    "PruneConfig": "runs",
    "PrunusError": "core",
    "PushConfig": "training",
    "Receipt": "surgery",
    "Report": "pipelines",
    "Scores": "criteria",
    "SearchConfig": "pipelines",
    "Statistics": "statistics",
    "TrainConfig": "training",
    "apply_": "surgery",
    "collect": "statistics",
    "diagnose": "pipelines",
    "evaluate": "pipelines",
    "export": "export",
    "find_groups": "surgery",
    "fit_": "training",
    "grow": "pipelines",
    "latent_utility": "criteria",
    "load": "runs",
    "make_plan": "plan",
    "measure_latency_table": "evaluation",
    "predict_loss": "plan",
    "prune": "pipelines",
    "push": "pipelines",
    "rank_layers": "criteria",
    "read": "batches",
    "score": "criteria",
    "search": "pipelines",
    "trace_utility": "statistics",
    "train": "pipelines",
    "undo_": "surgery",
    "unsound_groups": "surgery",
}
#: Names that earlier versions had here; they still work.
_FORMER = {"RunConfig": "runs", "run_prune": "pipelines"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing stays light."""
    if name == "__version__":
        from prunus.core import installed_version  # noqa: PLC0415 - only where asked for

        return installed_version()
    room = _ROOMS.get(name) or _FORMER.get(name)
    if room is None:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    from prunus.core import imported  # noqa: PLC0415

    if room != "core":
        importlib.import_module("torch")  # what it sets up when it is imported is not undone
    module = imported(f"prunus.{room}")
    return module if room == name else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
