"""`prunus grow`: add modules to a network where they help most."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.options import (
    Augment,
    BatchSize,
    DataName,
    DataRoot,
    Device,
    InputShape,
    Precision,
    Resume,
    Seed,
    Settings,
)
from prunus.cli.settings import base_settings, parse_shape, put_flags, put_settings
from prunus.core.errors import ConfigError

__all__ = ["grow"]


def grow(
    out: Annotated[Path, typer.Option(help="Folder of the run; made here.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A network that declares stages (`prunus models` shows them), as "
            "inception_v1_small, or grown already, as inception_v1_small@3,5,2."
        ),
    ] = None,
    data: DataName = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.yaml to start from; flags override it.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights (.safetensors, .pt); else train first.")
    ] = None,
    data_root: DataRoot = None,
    input_shape: InputShape = None,
    steps: Annotated[int | None, typer.Option(help="Modules that are added at most.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What the network may cost at most, and the accuracy that is enough: "
            "params=1M, macs=50M, accuracy>=97%. Several with commas."
        ),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="Which candidate stays: the best on validation after a brief training "
            "(accuracy), or by information alone, before any (information).",
            show_default="accuracy",
        ),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Steps in a row without gain before it stops.")
    ] = None,
    preserve: Annotated[
        bool | None,
        typer.Option("--preserve/--no-preserve", help="New modules start as the identity."),
    ] = None,
    base_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the network to start from, without --weights.")
    ] = None,
    candidate_epochs: Annotated[int | None, typer.Option(help="Epochs of each candidate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the grown network.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train candidates side by side.",
            show_default="one a stage, no more than cores; 1 on a GPU",
        ),
    ] = None,
    batch_size: BatchSize = None,
    augment: Augment = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    set_: Settings = None,
    resume: Resume = False,
) -> None:
    """Grow a network greedily: one module more a step, in the stage where it helps most."""
    values = base_settings(config, out if resume else None, growing=True)
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
        "grow.steps": steps,
        "grow.budget": budget,
        "grow.choose": choose,
        "grow.patience": patience,
        "grow.preserve": preserve,
        "grow.base.epochs": base_epochs,
        "grow.candidate.epochs": candidate_epochs,
        "train.epochs": epochs,
    }
    put_flags(values, flags)
    put_settings(values, set_ or (), "grow.candidate.lr=1e-3")
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or --config with one")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import GrowRunConfig, run_grow  # noqa: PLC0415
    from prunus.reports import print_grown  # noqa: PLC0415

    settings = from_dict(GrowRunConfig, values, "the settings")
    console = Console()
    command = "prunus " + shlex.join(sys.argv[1:])
    watch = TerminalWatch(console)
    journal = run_grow(settings, out, resume=resume, command=command, watch=watch, workers=workers)
    print_grown(journal.record.rows, console)
    console.print(f"network: {out / 'grown'}", highlight=False, soft_wrap=True)
