"""The page of a pruning run, and its headline in the terminal."""

from prunus.reports.run.console import print_headline
from prunus.reports.run.figures import knowledge_figure
from prunus.reports.run.page import render_page, write_report
from prunus.reports.run.tables import HeadlineRow, LayerRow, explained, gain, headline, layer_table
from prunus.reports.run.words import failed_measures

__all__ = [
    "HeadlineRow",
    "LayerRow",
    "explained",
    "failed_measures",
    "gain",
    "headline",
    "knowledge_figure",
    "layer_table",
    "print_headline",
    "render_page",
    "write_report",
]
