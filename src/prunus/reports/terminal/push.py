"""The effect of a push on the last hidden layer, on a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row
from prunus.reports.numbers import percent

__all__ = ["print_pushed"]


def print_pushed(rows: Sequence[Row], console: Console) -> None:
    """Print the discriminants and the required dimensions, before (if known) and after."""
    found = [row for row in rows if row["event"] == "latent" and "held_out" in row]
    if not found:
        console.print(Text("Not measured yet: the journal ends before the last hidden layer."))
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(f"input of {found[0]['head']}")
    for row in found:
        grid.add_column(row["network"], justify="right")
    lines: dict[str, Callable[[Row], str]] = {
        "sum of discriminants, training": lambda r: _number(sum(r["discriminants"])),
        "share of the first two": lambda r: _first_two(r["discriminants"]),
        "sum of discriminants, validation": lambda r: _number(sum(r["held_out"])),
        "share of the first two, validation": lambda r: _first_two(r["held_out"]),
        "dimensions": lambda r: str(r["width"]),
        "constant or copies": lambda r: str(r["constant"] + r["copies"]),
        "needed for the accuracy": lambda r: str(r["kept"]),
    }
    for name, cell in lines.items():
        grid.add_row(name, *(cell(row) for row in found))
    console.print(grid)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}".replace(",", " ")


def _first_two(discriminants: Sequence[float]) -> str:
    return percent(sum(discriminants[:2]) / max(sum(discriminants), 1e-300))
