"""The main job: PS-iteration down to a budget, on the command line and in Python."""

from prunus.pipelines.pruning.api import Report, prune
from prunus.pipelines.pruning.checks import checked
from prunus.pipelines.pruning.groups import find_sound_groups, ignoring, trace, why_branches_stay
from prunus.pipelines.pruning.iteration import targets_of
from prunus.pipelines.pruning.latency import costs_of
from prunus.pipelines.pruning.protect import find_protected
from prunus.pipelines.pruning.ps_iteration import ps_iteration
from prunus.pipelines.pruning.run import run_prune
from prunus.pipelines.pruning.s_phase import s_phase_
from prunus.pipelines.pruning.state import Pruning, PruningState

__all__ = [
    "Pruning",
    "PruningState",
    "Report",
    "checked",
    "costs_of",
    "find_protected",
    "find_sound_groups",
    "ignoring",
    "prune",
    "ps_iteration",
    "run_prune",
    "s_phase_",
    "targets_of",
    "trace",
    "why_branches_stay",
]
