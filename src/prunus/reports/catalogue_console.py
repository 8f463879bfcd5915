"""What can be named, trained and measured, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunus.reports.numbers import counted, grouped, percent
from prunus.reports.tables import Row, last

__all__ = ["print_data", "print_models", "say_evaluation", "say_trained"]


def print_models(rows: Sequence[Row], console: Console) -> None:
    """Print what `list_models` returns."""
    if not rows:
        console.print("No network of that name: `prunus models` without a text lists all.")
        return
    grid = _grid()
    grid.add_column("network", no_wrap=True)
    grid.add_column("input", no_wrap=True)
    grid.add_column("parameters", justify="right", no_wrap=True)
    counted_ = any(row["macs"] is not None for row in rows)
    if counted_:
        grid.add_column("MACs", justify="right", no_wrap=True)
    grid.add_column("source", overflow="fold")
    for row in rows:
        input_shape = "×".join(map(str, row["input_shape"]))
        if row["task"] == "restoration":
            input_shape += f" → ×{row['scale']}"
        sizes = [grouped(row["params"]), *([_large(row["macs"])] if counted_ else [])]
        grid.add_row(row["name"], input_shape, *sizes, Text(row["source"]))
    console.print(grid)
    console.print(
        f"{counted(len(rows), 'network')}; also torchvision:NAME, timm:NAME and "
        "path/to/file.py:factory."
    )


def print_data(rows: Sequence[Row], console: Console, data_root: Path) -> None:
    """Print what `list_data` returns."""
    grid = _grid()
    grid.add_column("data set", no_wrap=True)
    grid.add_column("shape", no_wrap=True)
    grid.add_column("classes", justify="right", no_wrap=True)
    grid.add_column("images", overflow="fold")
    grid.add_column("source and terms", overflow="fold")
    grid.add_column("here", no_wrap=True)
    for row in rows:
        here = "yes" if row["path"] is not None else "no" if row["get"] else "yours"
        grid.add_row(
            Text(row["name"]),
            "×".join(map(str, row["input_shape"])),
            str(row["num_classes"] or "–"),
            ", ".join(f"{name} {grouped(count)}" for name, count in row["sizes"].items()) or "–",
            Text(f"{row['source']}. {row['terms']}"),
            here,
        )
    console.print(grid)
    console.print(Text(f"Looked for in {data_root}; another place: --data-root."))


def say_evaluation(found: Row) -> str:
    """Return what `Evaluation.to_dict` holds in a few lines."""
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


def _grid() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
