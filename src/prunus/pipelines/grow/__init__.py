"""Growing: try one more module in every stage, keep the best, repeat; `prunus grow`."""

from prunus.pipelines.grow.config import GrowConfig, GrowRunConfig
from prunus.pipelines.grow.run import best_step, run_grow, why_stop

__all__ = [
    "GrowConfig",
    "GrowRunConfig",
    "best_step",
    "run_grow",
    "why_stop",
]
