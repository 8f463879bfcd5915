"""The headline table on a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row, last
from prunus.reports.run import words
from prunus.reports.run.tables import headline, untimed

__all__ = ["print_headline"]


def print_headline(rows: Sequence[Row], console: Console) -> None:
    """Print the dense and the pruned network side by side, and what is not measured yet."""
    table = headline(rows)
    if not table:
        console.print(
            Text("Not measured yet: the journal ends before the dense network's accuracy.")
        )
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("")
    grid.add_column("dense", justify="right")
    grid.add_column("pruned", justify="right")
    grid.add_column("change")
    for row in table:
        grid.add_row(row.metric, _cell(row.dense), _cell(row.pruned), _cell(row.change))
    console.print(grid)
    if collapsed := words.collapsed(rows):
        console.print(Text(collapsed))
    for runtime, reason in untimed(rows):
        console.print(Text(f"{runtime} was not timed: {reason}"))
    if last(rows, "result") is None:
        console.print(Text("Not measured yet: the test set, the size on disk and the latency."))


def _cell(value: str) -> Text:
    """Put the interval of a number under it."""
    median, _, interval = value.partition(" (")
    text = Text(median)
    return text.append(f"\n({interval}", style="dim") if interval else text
