"""Pipelines built from the packages below: PS-iteration, the main job, reloading."""

from prunus.pipelines.catalogue import list_data, list_models
from prunus.pipelines.diagnosis import Diagnosis, diagnose, run_doctor
from prunus.pipelines.diff import RunDifference, run_diff
from prunus.pipelines.evaluate import EvalConfig, Evaluation, run_eval
from prunus.pipelines.export import Exported, run_export
from prunus.pipelines.grow import GrowConfig, GrowRunConfig, run_grow
from prunus.pipelines.pruning import (
    Pruning,
    PruningState,
    Report,
    checked,
    costs_of,
    find_protected,
    find_sound_groups,
    ignoring,
    prune,
    ps_iteration,
    run_prune,
    s_phase_,
    targets_of,
    trace,
)
from prunus.pipelines.push import run_push
from prunus.pipelines.scoring import ScoreConfig, ScoreReport, run_score, settings_of_run
from prunus.pipelines.search import SearchConfig, SearchPruneConfig, run_search
from prunus.pipelines.train import run_train
from prunus.pipelines.verbs import evaluate, grow, push, search, train
from prunus.runs import (
    Audit,
    Journal,
    Loaders,
    PruneConfig,
    RunConfig,
    Session,
    Watch,
    load,
    run_load,
)

__all__ = [
    "Audit",
    "Diagnosis",
    "EvalConfig",
    "Evaluation",
    "Exported",
    "GrowConfig",
    "GrowRunConfig",
    "Journal",
    "Loaders",
    "PruneConfig",
    "Pruning",
    "PruningState",
    "Report",
    "RunConfig",
    "RunDifference",
    "ScoreConfig",
    "ScoreReport",
    "SearchConfig",
    "SearchPruneConfig",
    "Session",
    "Watch",
    "checked",
    "costs_of",
    "diagnose",
    "evaluate",
    "find_protected",
    "find_sound_groups",
    "grow",
    "ignoring",
    "list_data",
    "list_models",
    "load",
    "prune",
    "ps_iteration",
    "push",
    "run_diff",
    "run_doctor",
    "run_eval",
    "run_export",
    "run_grow",
    "run_load",
    "run_prune",
    "run_push",
    "run_score",
    "run_search",
    "run_train",
    "s_phase_",
    "search",
    "settings_of_run",
    "targets_of",
    "trace",
    "train",
]
