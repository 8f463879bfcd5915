"""Results of `prunus load` and of exports on a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row, of_event
from prunus.reports.numbers import grouped

__all__ = ["print_audit", "print_exports", "say_parity"]


def print_audit(content: Row, console: Console) -> None:
    """Print the result of `Audit.to_dict`."""
    shape = "×".join(map(str, content["input_shape"]))
    console.print(
        Text(
            f"{content['run']}: {content['network']}, input {shape}, rebuilt from its plan "
            f"({grouped(content['removed'])} of {grouped(content['units'])} units removed) and "
            "its weights"
        )
    )
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("", overflow="fold", max_width=20)
    grid.add_column("recorded", justify="right", no_wrap=True)
    grid.add_column("found", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    checks = content["checks"]
    for check in checks:
        cells = (_cell(check["recorded"]), _cell(check["found"]))
        grid.add_row(Text(check["subject"]), *cells, check["status"])
    console.print(grid)
    for check in checks:
        if check["note"] and check["found"] is None:
            console.print(Text(f"{check['subject']}: {check['note']}."))
    unsaid = [
        check["subject"]
        for check in checks
        if check["status"] == "unknown" and check["found"] is not None
    ]
    if unsaid:
        console.print(Text(f"Not recorded in the journal: {', '.join(unsaid)}."))
    differ = [check["subject"] for check in checks if check["status"] == "differs"]
    if differ:
        console.print(Text(f"Differs: {', '.join(differ)}.", style="bold"))
    else:
        console.print(Text("Intact: everything matches the record.", style="bold"))


def print_exports(rows: Sequence[Row], console: Console) -> None:
    """Print a line for each written format in the journal."""
    for row in (*of_event(rows, "export")[-1:], *of_event(rows, "artefact")):
        runtime, file = row.get("runtime", "ONNX Runtime"), row.get("file", row.get("onnx"))
        text = say_parity(runtime, row["largest_difference"], row["images"])
        console.print(f"{file}: {text}", highlight=False)


def say_parity(runtime: str, difference: float, images: int) -> str:
    """Return the difference of a runtime from PyTorch."""
    return f"{runtime} differs from PyTorch by at most {difference:.1e} on {images} images"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):  # a fingerprint
        return value[:12]
    return grouped(value) if isinstance(value, int) else f"{value:.1e}"
