"""`prunus push`: train with the Deep LDA objectives."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
from prunus.cli.settings import base_settings, parse_shape, put_flags, put_settings
from prunus.core.errors import ConfigError

__all__ = ["push"]


def push(
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
    form: Annotated[
        str | None,
        typer.Option(help="lda: N/Σv, the thesis's; di: 1 − DI/tr(YYᵀ), which is bounded."),
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
    """Push what separates the classes into few neurons of the last hidden layer, by training."""
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
    values.setdefault("train", {})["push"] = (values.get("train") or {}).get("push") or {}
    put_flags(values, flags | {"train.push.form": form})
    put_settings(values, set_ or (), "train.push.cov=0.5")
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or --config with one")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import RunConfig, run_push  # noqa: PLC0415
    from prunus.reports import print_pushed, say_trained  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    command = "prunus " + shlex.join(sys.argv[1:])
    journal = run_push(settings, out, resume=resume, command=command, watch=TerminalWatch(console))
    print_pushed(journal.record.rows, console)
    console.print(say_trained(journal.record.rows), highlight=False)
    console.print(f"network: {out / 'model.safetensors'}", highlight=False, soft_wrap=True)
