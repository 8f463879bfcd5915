"""`prunus doctor`: show what can be pruned in a network, and what prevents the rest."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.options import MODEL_HELP, AsJson
from prunus.cli.settings import parse_image_shape

__all__ = ["doctor"]

EXIT_CODES = {"healthy": 0, "faulty": 1, "unprunable": 2}


def doctor(
    model: Annotated[
        str,
        typer.Argument(help=MODEL_HELP),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Trained weights (.safetensors, .pt).", show_default="random weights"),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            help="Channels, height, width, e.g. 3,224,224.", show_default="the network's default"
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Number of classes.", show_default="the network's default")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Inspect a network without data: what can be pruned, what cannot, why, and what to change.

    Exit code 0: healthy.

    Exit code 1: the forward pass prevents some pruning (fixed sizes, unknown operations).

    Exit code 2: bad input, the network cannot be traced, or nothing can be pruned.
    """
    shape = parse_image_shape(input_shape)
    from prunus.pipelines import run_doctor  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_diagnosis  # noqa: PLC0415

    # Third-party networks may print while they are built or run.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        diagnosis = run_doctor(
            model,
            weights=weights,
            input_shape=shape,
            num_classes=num_classes,
        )
    if as_json:
        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        print_diagnosis(diagnosis.to_dict(), Console())
    raise typer.Exit(EXIT_CODES[diagnosis.status])
