"""The difference of two plans on a terminal, within 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.core import Row
from prunus.reports.numbers import NBSP, counted, grouped, percent

__all__ = ["print_difference"]

#: Indices listed in one cell; the others are counted.
NAMED = 12


def print_difference(content: Row, console: Console) -> None:
    """Print the result of `RunDifference.to_dict`."""
    for side in "ab":
        console.print(Text(_side(content, side)))
    models = [content[side]["model"] for side in "ab"]
    if None not in models and models[0] != models[1]:
        console.print(
            Text(
                f"The runs are of different networks, {models[0]} and {models[1]}: a group that "
                "only one of them cuts may not exist in the other."
            )
        )
    elif content["same_dense"] is False:
        console.print(
            Text(
                "The two dense networks have different weights (dense.safetensors): units with the "
                "same index need not do the same, so compare counts rather than indices."
            )
        )
    console.print()
    if content["groups"]:
        _groups(content, console)
    console.print(Text(_agreement(content)))
    for one, other in ("ab", "ba"):
        if names := content[f"only_{one}"]:
            console.print(
                Text(
                    f"Only {one.upper()} cuts {', '.join(names)}; {other.upper()} keeps all of it."
                )
            )


def _side(content: Row, side: str) -> str:
    said = content[side]
    run = " on ".join(said[key] for key in ("model", "data") if said[key])
    settings = [f"{key} {said[key]}" for key in ("budget", "criterion") if said[key]]
    about = ", ".join([run, *settings] if run else settings)
    removed, units = content["removed"][side], content["units"]
    share = f" ({percent(removed / units, 1)})" if units else ""
    sentence = (
        f"{side.upper()} is {said['path']}{about and f' ({about})'}: it removes "
        f"{grouped(removed)} of {counted(units, 'unit')}{share}"
    )
    kept = [
        f"{percent(said[key], 1)} of the {noun}"
        for key, noun in (("params", "parameters"), ("macs", "MACs"))
        if said[key] is not None
    ]
    return sentence + (f" and keeps {' and '.join(kept)}" if kept else "") + "."


def _groups(content: Row, console: Console) -> None:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("group", overflow="fold", max_width=20)
    for heading in ("units", "both\nkeep", "both\nremove"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("only A removes", overflow="fold")
    grid.add_column("only B removes", overflow="fold")
    for row in content["groups"]:
        grid.add_row(
            Text(row["group"]),
            grouped(row["units"]),
            grouped(row["kept"]),
            grouped(len(row["both"])),
            Text(_indices(row["a_alone"])),
            Text(_indices(row["b_alone"])),
        )
    console.print(grid)


def _indices(indices: list[int]) -> str:
    """Return `3: 0, 4, 7`; after `NAMED` of them, the number of the others."""
    if not indices:
        return "–"
    rest = len(indices) - NAMED
    named = ", ".join(map(str, indices[:NAMED])) + (f", {rest}{NBSP}more" if rest > 0 else "")
    return f"{grouped(len(indices))}: {named}"


def _agreement(content: Row) -> str:
    if content["same"]:
        if not any(content["removed"].values()):
            return "The plans are the same: neither removes a unit."
        return "The plans are the same: they remove the same units."
    differ = any(row["a_alone"] or row["b_alone"] for row in content["groups"])
    if not differ:
        return (
            "The plans remove the same units of every group, but different channels of "
            f"{', '.join(content['modules'])}."
        )
    union = sum(
        len(row[key]) for row in content["groups"] for key in ("both", "a_alone", "b_alone")
    )
    both = sum(len(row["both"]) for row in content["groups"])
    return (
        f"Of the {counted(union, 'unit')} that either run removes, both remove {grouped(both)}: "
        f"a Jaccard index of {content['jaccard']:.3f}, where random choices of the same number of "
        f"units in each group would give {content['jaccard_by_chance']:.3f} on average."
    )
