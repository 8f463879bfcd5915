"""Reports: the journal of a run as tables, figures and one self-contained HTML page."""

from prunus.reports.audit_console import print_audit, print_exports, say_parity
from prunus.reports.catalogue_console import (
    print_data,
    print_models,
    say_evaluation,
    say_trained,
)
from prunus.reports.console import print_headline
from prunus.reports.diff_console import print_difference
from prunus.reports.doctor_console import print_diagnosis
from prunus.reports.grow_console import print_grown
from prunus.reports.page import render_page, write_report
from prunus.reports.push_console import print_pushed
from prunus.reports.score_console import print_scores
from prunus.reports.score_page import render_scores
from prunus.reports.search_console import print_search
from prunus.reports.tables import HeadlineRow, LayerRow, headline, layer_table

__all__ = [
    "HeadlineRow",
    "LayerRow",
    "headline",
    "layer_table",
    "print_audit",
    "print_data",
    "print_diagnosis",
    "print_difference",
    "print_exports",
    "print_grown",
    "print_headline",
    "print_models",
    "print_pushed",
    "print_scores",
    "print_search",
    "render_page",
    "render_scores",
    "say_evaluation",
    "say_parity",
    "say_trained",
    "write_report",
]
