"""Recipes made of the rooms below: PS-iteration, the main job, reloading."""

from prunus.pipelines.audit import Audit, run_load
from prunus.pipelines.catalogue import list_data, list_models
from prunus.pipelines.config import PruneConfig, RunConfig
from prunus.pipelines.diff import RunDifference, run_diff
from prunus.pipelines.doctor import Diagnosis, diagnose, run_doctor
from prunus.pipelines.evaluate import EvalConfig, Evaluation, run_eval
from prunus.pipelines.export import Exported, run_export
from prunus.pipelines.grow import run_grow
from prunus.pipelines.grow.config import GrowConfig, GrowRunConfig
from prunus.pipelines.journal import Journal
from prunus.pipelines.load import load
from prunus.pipelines.prune import Report, prune
from prunus.pipelines.ps_iteration import ps_iteration
from prunus.pipelines.push import run_push
from prunus.pipelines.run import run_prune
from prunus.pipelines.score import ScoreReport, run_score
from prunus.pipelines.score_config import ScoreConfig, settings_of_run
from prunus.pipelines.search import SearchConfig, SearchPruneConfig, run_search
from prunus.pipelines.session import Loaders, Session
from prunus.pipelines.train import run_train
from prunus.pipelines.watch import Watch

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
    "Report",
    "RunConfig",
    "RunDifference",
    "ScoreConfig",
    "ScoreReport",
    "SearchConfig",
    "SearchPruneConfig",
    "Session",
    "Watch",
    "diagnose",
    "list_data",
    "list_models",
    "load",
    "prune",
    "ps_iteration",
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
    "settings_of_run",
]
