"""`prunus load`: rebuild a run's network and verify the files of its folder."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.options import AsJson, RunInputShape, RunNumClasses, Trust
from prunus.cli.settings import parse_image_shape

__all__ = ["load"]


def load(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Constructor of the dense network, as for prune: path/to/file.py:factory.",
            show_default="as recorded in the run",
        ),
    ] = None,
    input_shape: RunInputShape = None,
    num_classes: RunNumClasses = None,
    batch: Annotated[int, typer.Option(min=1, help="Random images to compare artefacts on.")] = 64,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild a run's network from its plan and weights, and verify the folder.

    It compares the fingerprints of plan and weights, the sizes of both networks, and the outputs
    of every exported artefact with what was recorded.

    Exit code 0: everything matches the record.

    Exit code 1: something differs.

    Exit code 2: bad input, or the network cannot be rebuilt.
    """
    shape = parse_image_shape(input_shape)
    from prunus.reports import print_audit  # noqa: PLC0415
    from prunus.runs import run_load  # noqa: PLC0415 - torch takes seconds

    # Third-party networks may print while they are built or run.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        audit = run_load(
            run,
            model=model,
            input_shape=shape,
            num_classes=num_classes,
            batch=batch,
            trust=trust,
        )
    if as_json:
        typer.echo(json.dumps(audit.to_dict(), indent=2))
    else:
        print_audit(audit.to_dict(), Console())
    raise typer.Exit(0 if audit.intact else 1)
