"""Known networks and data sets, training and evaluation results on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prunus.core import Row, last
from prunus.reports.numbers import counted, grouped, percent

__all__ = ["print_data", "print_models", "say_evaluation", "say_trained"]


def print_models(rows: Sequence[Row], console: Console) -> None:
    """Print the result of `list_models`."""
    if not rows:
        console.print("No matching network: `prunus models` without a pattern lists all.")
        return
    sources: dict[str, list[Row]] = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    for source, networks in sources.items():
        console.print(Text(source, style="bold"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for column in ("left", "left", "right", "right", "left"):
            grid.add_column(justify=column, no_wrap=True)
        for row in networks:
            grid.add_row(*_facts(row))
        console.print(Padding(grid, (0, 0, 0, 2)))
    columns = "name, input → output, parameters" + ("" if rows[0]["macs"] is None else ", MACs")
    grows = next((row for row in rows if row["stages"]), None)
    if grows is not None:
        *beneath, top = grows["stages"]
        larger = grows["name"] + _stages([*beneath, top + 1])
        columns += f" and, if it can grow, modules per stage (e.g. {larger})"
    console.print(
        f"{counted(len(rows), 'network')}: {columns}. Also torchvision:NAME, timm:NAME and "
        "path/to/file.py:factory."
    )


def _facts(row: Row) -> list[str]:
    input_shape = "×".join(map(str, row["input_shape"]))
    if row["task"] == "restoration":
        aim = f"→ ×{row['scale']}" if row["scale"] > 1 else "→ clean"
    else:
        aim = f"→ {grouped(row['num_classes'])} classes"
    macs = "" if row["macs"] is None else _large(row["macs"])
    params = grouped(row["params"])
    return [row["name"], f"{input_shape} {aim}", params, macs, _stages(row["stages"])]


def _stages(sizes: Sequence[int] | None) -> str:
    return "" if sizes is None else "@" + ",".join(map(str, sizes))


def print_data(rows: Sequence[Row], console: Console, data_root: Path) -> None:
    """Print the result of `list_data`: one line of facts and one of origin each."""
    for row in rows:
        here = "found" if row["path"] is not None else "not found" if row["get"] else "your own"
        facts = ["×".join(map(str, row["input_shape"]))]
        if row["num_classes"]:
            facts.append(f"{grouped(row['num_classes'])} classes")
        facts += [f"{name} {grouped(count)}" for name, count in row["sizes"].items()]
        console.print(Text(f"{row['name']}  ", style="bold").append(f"({here})", style="dim"))
        origin = f"{row['source']}. {row['terms']}"
        console.print(Padding(Text("; ".join(facts)), (0, 0, 0, 2)))
        console.print(Padding(Text(origin, style="dim"), (0, 0, 0, 2)))
    console.print(Text(f"Searched in {data_root}; change it with --data-root."))


def say_evaluation(found: Row) -> str:
    """Return the content of `Evaluation.to_dict` in a few lines."""
    lines = [f"{found['model']} on {found['data']}, {found['split']} split:"]
    images = counted(found["images"], "image")
    quality = found["quality"]
    if found["interval"] is not None:
        low, high = found["interval"]
        interval = f"95 % interval {percent(low)} to {percent(high)}"
        lines.append(f"  accuracy {percent(quality['accuracy'])} of {images} ({interval})")
    else:
        lines.append(f"  {_restored(quality)} over {images}")
    lines.append(
        f"  {counted(found['params'], 'parameter')}, {_large(found['macs'])} MACs at "
        f"{'×'.join(map(str, found['input_shape']))}"
    )
    return "\n".join([*lines, *(f"  {note}" for note in found["notes"])])


def say_trained(rows: Sequence[Row]) -> str:
    """Return the last line of a training run."""
    row = last(rows, "trained")
    if row is None:
        return "Not measured yet: the journal ends before the test split."
    if "test_accuracy" in row:
        text = (
            f"test accuracy {percent(row['test_accuracy'])}, validation accuracy "
            f"{percent(row['validation_accuracy'])}"
        )
    else:
        text = "test " + _restored({"psnr": row["test_psnr"], "ssim": row["test_ssim"]})
    return f"{text}; {counted(row['params'], 'parameter')}, {_large(row['macs'])} MACs"


def _restored(quality: Row) -> str:
    return f"PSNR {quality['psnr']:.2f} dB, SSIM {quality['ssim']:.4f}"


def _large(number: float) -> str:
    """Return a count with three or four digits: `125.5 M`."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.{2 if number < 10 * factor else 1}f} {letter}"
    return str(int(number))
