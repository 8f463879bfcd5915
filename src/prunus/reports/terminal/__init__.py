"""Terminal output of the commands without a page."""

from prunus.reports.terminal.audit import print_audit, print_exports, say_parity
from prunus.reports.terminal.catalogue import print_data, print_models, say_evaluation, say_trained
from prunus.reports.terminal.diff import print_difference
from prunus.reports.terminal.doctor import print_diagnosis
from prunus.reports.terminal.grow import print_grown
from prunus.reports.terminal.push import print_pushed

__all__ = [
    "print_audit",
    "print_data",
    "print_diagnosis",
    "print_difference",
    "print_exports",
    "print_grown",
    "print_models",
    "print_pushed",
    "say_evaluation",
    "say_parity",
    "say_trained",
]
