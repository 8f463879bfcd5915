"""`prunus score`: the class information of layers and the score of each unit."""

from prunus.pipelines.scoring.config import ScoreConfig, settings_of_run
from prunus.pipelines.scoring.run import ScoreReport, run_score

__all__ = [
    "ScoreConfig",
    "ScoreReport",
    "run_score",
    "settings_of_run",
]
