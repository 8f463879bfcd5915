"""`prunus eval`: measure a network on a split of its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prunus.cli.options import (
    AsJson,
    BatchSize,
    DataName,
    DataRoot,
    Device,
    InputShape,
    ModelName,
    Weights,
)
from prunus.cli.settings import parse_shape, put_flags
from prunus.core.errors import ConfigError

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run: its network and data.")
    ] = None,
    model: ModelName = None,
    data: DataName = None,
    weights: Weights = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    data_root: DataRoot = None,
    input_shape: InputShape = None,
    batch_size: BatchSize = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the validation split.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy with its 95 % interval, or PSNR and SSIM; parameters and MACs."""
    from prunus.core import from_dict  # noqa: PLC0415 - torch takes seconds
    from prunus.pipelines import EvalConfig, Watch, run_eval, settings_of_run  # noqa: PLC0415

    values: dict[str, Any] = {}
    if run is not None:
        for flag, given in (("--model", model), ("--weights", weights)):
            if given is not None:
                raise ConfigError(f"{flag} {given} came with the run {run}: give one of them")
        known = ("run", "model", "data", "seed", "data_root", "batch_size", "input_shape")
        found = settings_of_run(run)
        values = {key: found[key] for key in known}
    flags = {
        "model": model,
        "data": data,
        "weights": weights,
        "split": split,
        "data_root": data_root,
        "input_shape": parse_shape(input_shape),
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    put_flags(values, flags)
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or the folder of a finished run")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415
    from prunus.reports import say_evaluation  # noqa: PLC0415

    settings = from_dict(EvalConfig, values, "the settings")
    console = Console(stderr=as_json)
    found = run_eval(settings, watch=Watch() if as_json else TerminalWatch(console)).to_dict()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(say_evaluation(found), highlight=False, soft_wrap=True)
