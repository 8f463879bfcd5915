"""Reports: the journal of a run as tables, figures and one self-contained HTML page."""

from prunus.reports.run import (
    HeadlineRow,
    LayerRow,
    failed_measures,
    headline,
    layer_table,
    print_headline,
    render_page,
    write_report,
)
from prunus.reports.score import print_scores, render_scores
from prunus.reports.search import print_search
from prunus.reports.terminal import (
    print_audit,
    print_data,
    print_diagnosis,
    print_difference,
    print_exports,
    print_grown,
    print_models,
    print_pushed,
    say_evaluation,
    say_parity,
    say_trained,
)

__all__ = [
    "HeadlineRow",
    "LayerRow",
    "failed_measures",
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
