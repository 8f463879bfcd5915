"""`prunus export`: write a network in formats for other runtimes, each one checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.options import RunInputShape, RunNumClasses, Trust
from prunus.cli.settings import parse_image_shape, parse_names
from prunus.core import ConfigError

__all__ = ["export"]


def export(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run: its pruned network.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: {formats}.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder.", show_default="the run folder"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Without a run, the network; with a run, the constructor of its dense network: a "
            "name as for prune, or path/to/file.py:factory.",
            show_default="as recorded in the run",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Without a run: trained weights (.safetensors, .pt).")
    ] = None,
    input_shape: RunInputShape = None,
    num_classes: RunNumClasses = None,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Random images to compare outputs on; batch 1 is compared too."),
    ] = 64,
    trust: Trust = False,
) -> None:
    """Write a network as model.onnx, model.pt2, model.xml; check each in its runtime first.

    Exit code 0: every format was written.

    Exit code 1: a format cannot be exported or its outputs differ from PyTorch; it is not written.

    Exit code 2: bad input, or a format needs a package that is not installed.
    """
    names = parse_names(formats)
    if not names:
        raise ConfigError(f"--format {formats!r} names no format: give at least one, e.g. onnx,pt2")
    shape = parse_image_shape(input_shape)
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.pipelines import run_export  # noqa: PLC0415
    from prunus.reports import say_parity  # noqa: PLC0415

    console = Console()
    done = run_export(
        run,
        names,
        out=out,
        model=model,
        weights=weights,
        input_shape=shape,
        num_classes=num_classes,
        batch=batch,
        watch=TerminalWatch(console),
        trust=trust,
    )
    for each in done:
        if each.parity is None:
            typer.echo(f"prunus: {each.error}", err=True)
        else:
            text = say_parity(each.runtime, each.parity.largest_difference, each.parity.images)
            console.print(f"{each.files[0]}: {text}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if any(each.parity is None for each in done) else 0)
