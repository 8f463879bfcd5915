"""What can be pruned in a network and what cannot, on a terminal, within 80 columns."""

from __future__ import annotations

import math
import re
from collections import defaultdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row
from prunus.modules import baked_words
from prunus.reports.numbers import NBSP, counted, grouped, percent, size

__all__ = ["print_diagnosis"]

#: Modules listed in one cell; the others are counted.
NAMED = 3


def print_diagnosis(content: Row, console: Console) -> None:
    """Print the result of `Diagnosis.to_dict`."""
    shape = "×".join(map(str, content["input_shape"]))
    console.print(Text(f"{content['network']}, input {shape}", style="bold"))
    console.print(
        Text(
            f"{counted(content['params'], 'parameter')}, {grouped(content['macs'])} MACs, "
            f"{size(content['bytes'], content['bytes'])}"
        )
    )
    console.print(Text(_verdict(content)))
    console.print()
    if content["groups"]:
        _groups(content, console)
    if content["findings"]:
        _findings(content, console)
    if content["outputs"]:
        names = _names(content["outputs"], len(content["outputs"]))
        console.print(Text(f"{names}: the network's outputs, which are kept", style="dim"))
    if content["baked"]:
        words = baked_words(content["baked"], "becomes")
        console.print(Text(f"when it is cut, {words}"))
    if content["groups"]:
        least = ", ".join(
            f"{currency}={_rounded_up(content['least'][currency]['share'])}%"
            for currency in ("macs", "params", "bytes")
        )
        console.print(Text(f"smallest budgets, each on its own: {least}"))


def _verdict(content: Row) -> str:
    if not content["groups"]:
        bare = not content["findings"] and not content["outputs"]
        return "Nothing can be pruned" + bare * ": it has no convolution or linear layer" + "."
    able = f"{counted(len(content['groups']), 'group')} can be pruned"
    faults = sum(item["fault"] for item in content["findings"])
    if not faults:
        return f"Healthy: {able}; a test cut of all of them computes the correct outputs."
    return f"{able}; {faults} more could be if the forward pass were written differently."


def _groups(content: Row, console: Console) -> None:
    console.print(Text("What can be pruned", style="bold"))
    console.print(Text("share of the network saved by cutting most of one group", style="dim"))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("group", overflow="fold", max_width=22)
    grid.add_column("kind", no_wrap=True)
    grid.add_column("units", justify="right", no_wrap=True)
    grid.add_column("cut together with", overflow="fold", max_width=24)
    grid.add_column("params", justify="right", no_wrap=True)
    grid.add_column("MACs", justify="right", no_wrap=True)
    for group in content["groups"]:
        grid.add_row(
            Text(group["name"]),
            group["kind"],
            grouped(group["units"]),
            Text(_names(group["members"], NAMED)),
            percent(group["saves"]["params"], 1),
            percent(group["saves"]["macs"], 1),
        )
    console.print(grid)


def _findings(content: Row, console: Console) -> None:
    """Print a row for each reason; reasons that differ only in numbers count as one."""
    alike: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for item in content["findings"]:
        alike[_pattern(item["reason"]), item["hint"]].append(item)
    console.print(Text("What cannot be pruned", style="bold"))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("times", justify="right", no_wrap=True)
    grid.add_column("module", overflow="fold", max_width=22)
    grid.add_column("why", overflow="fold")
    grid.add_column("what to change", overflow="fold", max_width=22)
    for items in alike.values():
        grid.add_row(
            str(len(items)),
            Text(_names([item["module"] for item in items], NAMED)),
            Text(items[0]["reason"]),
            Text(items[0]["hint"]),
        )
    console.print(grid)


def _pattern(reason: str) -> str:
    """Return a reason without its numbers, except for the source line it names."""
    return re.sub(r"(?<!\.py:)\b\d+", "#", reason)


def _names(names: list[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest}{NBSP}more" if rest > 0 else "")


def _rounded_up(share: float) -> str:
    """Return a share in percent, rounded up, so that the printed budget is reachable."""
    return f"{math.ceil(share * 1e4) / 100:g}"
