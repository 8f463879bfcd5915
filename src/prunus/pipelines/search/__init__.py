"""Grow, push, prune, and compare with alternatives of the same run: `prunus search`."""

from prunus.pipelines.search.config import SearchConfig, SearchPruneConfig
from prunus.pipelines.search.run import run_search

__all__ = [
    "SearchConfig",
    "SearchPruneConfig",
    "run_search",
]
