"""The rankings of layers and units on a terminal, within 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row
from prunus.reports.latent import latent_sentence
from prunus.reports.numbers import MINUS, grouped, percent
from prunus.reports.score.tables import (
    LayerRank,
    UnitRow,
    could_go,
    group_summary,
    layer_ranks,
    score_title,
    unit_row,
    verdict,
)

__all__ = ["print_scores"]

#: Cells of a bar.
BAR = 10
EIGHTHS = " ▏▎▍▌▋▊▉"


def print_scores(content: Row, console: Console, top: int = 3) -> None:
    """Print `scores.json`: layers, last hidden layer, `top` units at each end of each group."""
    console.print(Text(score_title(content), style="bold"))
    console.print(Text(verdict(content)))
    console.print()
    _layers(content, console)
    latent = content.get("latent")
    if latent and "absent" not in latent:
        console.print(Text("The last hidden layer", style="bold"))
        console.print(Text(latent_sentence(latent)))
        console.print()
    _groups(content, console, top)
    lists = {
        "Approximate": content.get("approximate", []),
        "Not scored": [*content["skipped"], *content["unprunable"]],
    }
    for title, items in lists.items():
        if items:
            console.print(Text(title, style="bold"))
        for item in items:
            console.print(Text(f"  {item['module']}: {item['reason']}"))


def _layers(content: Row, console: Console) -> None:
    console.print(Text("Class information of the layers", style="bold"))
    level = percent(content["level"], 0)
    console.print(Text(f"share of the class labels explained, {level} intervals", style="dim"))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("input of", overflow="fold", max_width=24)
    grid.add_column("runs", justify="right", no_wrap=True)
    grid.add_column("features", justify="right", no_wrap=True)
    grid.add_column("explained", no_wrap=True)
    grid.add_column("gain, points", justify="right", no_wrap=True)
    grid.add_column("", width=BAR, no_wrap=True)
    for row in layer_ranks(content):
        grid.add_row(
            Text(row.module),
            str(row.place),
            grouped(row.features),
            row.explained,
            _signed(100 * row.step),
            Text(_bar(row), style="blue"),
        )
    console.print(grid)


def _groups(content: Row, console: Console, top: int) -> None:
    console.print(Text("Costs of the units", style="bold"))
    console.print(Text(content["unit"], style="dim"))
    if any(could_go(group) is not None for group in content["groups"]):
        console.print(Text("* the interval includes 0: it may cost nothing", style="dim"))
    for group in content["groups"]:
        line = group_summary(group)
        free = f", {line.free} may cost nothing" if line.free_units else ""
        console.print()
        console.print(
            Text(line.name, style="bold").append(
                f"  {line.size}, median {line.median}{free}", style="dim"
            )
        )
        shown = min(top, group["units"])
        grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
        for heading in ("least valuable", "most valuable"):
            grid.add_column("unit", justify="right", width=6)
            grid.add_column(heading, width=29, no_wrap=True)
        for at in range(1, shown + 1):
            least, most = unit_row(group, at), unit_row(group, group["units"] + 1 - at)
            grid.add_row(str(least.unit), _cost(least), str(most.unit), _cost(most))
        console.print(grid)
    console.print()


def _cost(row: UnitRow) -> str:
    return row.cost + (" *" if row.free else "")


def _signed(number: float) -> str:
    return f"{MINUS if number < 0 else '+'}{abs(number):.1f}"


def _bar(row: LayerRank) -> str:
    eighths = round(8 * BAR * min(max(row.share, 0.0), 1.0))
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
