"""The networks of the growing steps on a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row, last
from prunus.reports.numbers import grouped, percent

__all__ = ["print_grown"]


def print_grown(rows: Sequence[Row], console: Console) -> None:
    """Print the network of each step, with the kept one marked, and the reason for stopping."""
    steps = [row for row in rows if row["event"] == "step"]
    if not steps:
        console.print(Text("Nothing grown yet: the journal ends before the initial network."))
        return
    grown = last(rows, "grown")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("stages", "parameters", "MACs", "validation", "information", ""):
        grid.add_column(column, justify="left" if column in ("stages", "") else "right")
    for row in steps:
        kept = grown is not None and grown["step"] == row["step"]
        grid.add_row(
            ",".join(map(str, row["sizes"])),
            grouped(row["params"]),
            grouped(row["macs"]),
            percent(row["accuracy"]),
            percent(row["information"]),
            "kept" if kept else "",
            style="bold" if kept else None,
        )
    console.print(grid)
    stop = last(rows, "stop")
    if stop is not None:
        console.print(Text(f"Growing stopped: {stop['reason']}."))
    console.print(Text(_agreement([row for row in steps if row.get("choices")])))
    if grown is not None:
        console.print(
            Text(
                f"{grown['model']}: test accuracy {percent(grown['test_accuracy'])}, validation "
                f"accuracy {percent(grown['validation_accuracy'])}"
            )
        )


def _agreement(steps: Sequence[Row]) -> str:
    """Return how often information alone would have chosen the same candidate as training."""
    both = [row["choices"] for row in steps if "accuracy" in row["choices"]]
    if not both:
        return "Information: share of the classes that the last hidden layer explains."
    same = sum(row["accuracy"] == row["information"] for row in both)
    return (
        "Information: share of the classes that the last hidden layer explains; before training "
        f"it would have chosen the same stage in {same} of {len(both)} steps."
    )
