"""The page of scores, and its tables in the terminal."""

from prunus.reports.score.console import print_scores
from prunus.reports.score.page import render_scores

__all__ = [
    "print_scores",
    "render_scores",
]
