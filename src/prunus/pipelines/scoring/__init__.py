"""`prunus score`: what layers know and what each unit is worth."""

from prunus.pipelines.scoring.config import ScoreConfig, settings_of_run
from prunus.pipelines.scoring.run import ScoreReport, run_score

__all__ = [
    "ScoreConfig",
    "ScoreReport",
    "run_score",
    "settings_of_run",
]
