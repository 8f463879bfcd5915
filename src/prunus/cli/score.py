"""`prunus score`: rank the layers and the channels of a trained network."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prunus.cli.options import (
    BatchSize,
    DataName,
    DataRoot,
    Device,
    InputShape,
    ModelName,
    Seed,
    Weights,
)
from prunus.cli.settings import parse_shape, put_flags, put_settings
from prunus.core.errors import ConfigError

__all__ = ["score"]


def score(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run: its pruned network and data.")
    ] = None,
    model: ModelName = None,
    data: DataName = None,
    weights: Weights = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the scores; earlier ones there are replaced.",
            show_default="runs/scores, or scores in the run",
        ),
    ] = None,
    data_root: DataRoot = None,
    input_shape: InputShape = None,
    criterion: Annotated[
        str | None,
        typer.Option(help="stacked, di, fdr, taylor, l1 …; a wrong one lists all."),
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="patch, pixel, pool:G, flatten, flatten:G or dual.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Units printed at either end of each group.")] = 3,
    batch_size: BatchSize = None,
    seed: Seed = None,
    device: Device = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any setting by its path: options.mu=0.2, blocks=16; repeatable."
        ),
    ] = None,
) -> None:
    """Rank layers by what they know and channels by what they are worth, with intervals."""
    from prunus.core import from_dict  # noqa: PLC0415 - torch takes seconds
    from prunus.pipelines import ScoreConfig, run_score, settings_of_run  # noqa: PLC0415

    values: dict[str, Any] = {}
    if run is not None:
        for flag, given in (("--model", model), ("--weights", weights)):
            if given is not None:
                raise ConfigError(f"{flag} {given} came with the run {run}: give one of them")
        values = settings_of_run(run)
    flags = {
        "model": model,
        "data": data,
        "weights": weights,
        "data_root": data_root,
        "input_shape": parse_shape(input_shape),
        "sampling": sampling,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    put_flags(values, flags)
    if criterion is not None and criterion != values.get("criterion"):
        values |= {"criterion": criterion, "options": {}}  # the run's options are another's
    put_settings(values, set_ or (), "options.mu=0.2")
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or the folder of a finished run")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415
    from prunus.reports import print_scores  # noqa: PLC0415

    settings = from_dict(ScoreConfig, values, "the settings")
    folder = out or (Path("runs/scores") if run is None else run / "scores")
    console = Console()
    command = "prunus " + shlex.join(sys.argv[1:])
    report = run_score(settings, folder, command=command, watch=TerminalWatch(console))
    print_scores(report.content, console, top=top)
    console.print(f"page: {folder / 'scores.html'}", highlight=False, soft_wrap=True)
