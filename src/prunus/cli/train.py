"""`prunus train`: train a network by name on data by name."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prunus.cli.listing import ListingCommand
from prunus.cli.options import (
    Augment,
    BatchSize,
    DataName,
    DataRoot,
    Device,
    InputShape,
    ModelName,
    Precision,
    Resume,
    Seed,
    Settings,
)
from prunus.cli.settings import (
    base_settings,
    parse_shape,
    put_flags,
    put_settings,
)
from prunus.core.errors import ConfigError

__all__ = ["ListingCommand", "train"]


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; made here.")],
    model: ModelName = None,
    data: DataName = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A recipe to start from, as configs/*.yaml; flags override it."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from (.safetensors, .pt).")
    ] = None,
    data_root: DataRoot = None,
    input_shape: InputShape = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: BatchSize = None,
    augment: Augment = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    set_: Settings = None,
    resume: Resume = False,
) -> None:
    """Train a network; measure the last epoch's weights once on the test split."""
    values: dict[str, Any] = base_settings(config, out if resume else None)
    flags = {
        "model": model,
        "data": data,
        "weights": weights,
        "data_root": data_root,
        "input_shape": parse_shape(input_shape),
        "batch_size": batch_size,
        "augment": augment,
        "seed": seed,
        "device": device,
        "precision": precision,
        "train.epochs": epochs,
        "train.lr": lr,
    }
    put_flags(values, flags)
    put_settings(values, set_ or (), "train.lr=1e-3")
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or --config with one")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import RunConfig, run_train  # noqa: PLC0415
    from prunus.reports import say_trained  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    command = "prunus " + shlex.join(sys.argv[1:])
    journal = run_train(settings, out, resume=resume, command=command, watch=TerminalWatch(console))
    console.print(say_trained(journal.record.rows), highlight=False)
    console.print(f"network: {out / 'model.safetensors'}", highlight=False, soft_wrap=True)
