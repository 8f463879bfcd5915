"""The networks of a search on a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import DERIVED, Row, last, of_event
from prunus.reports.search.tables import arm_name, arm_rows, lead_text, verdict

__all__ = ["print_search"]


def print_search(rows: Sequence[Row], console: Console) -> None:
    """Print the finished networks and the lead of the derived ones at equal parameters."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("network", "parameters", "MACs", "validation", "test"):
        grid.add_column(column, justify="left" if column == "network" else "right")
    for row in arm_rows(rows):
        own = row.arm == arm_name(DERIVED)
        name = row.arm if row.name == "finished" else f"{row.arm}: {row.name}"
        grid.add_row(
            name, row.params, row.macs, row.validation, row.test, style="bold" if own else None
        )
    console.print(grid)
    for failed in of_event(rows, "failed"):
        console.print(Text(f"{arm_name(failed['key'])} could not run: {failed['reason']}"))
    comparison = last(rows, "comparison")
    if comparison is not None:
        console.print(Text("Lead of the derived networks at equal parameters, on validation:"))
        for row in comparison["arms"]:
            if row["currency"] == "params":
                console.print(Text(f"  over {arm_name(row['arm'])}: {lead_text(row)}"))
    console.print(Text(verdict(rows)))
