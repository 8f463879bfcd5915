"""`prunus models` and `prunus data`: what can be named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["data", "models"]


def models(
    pattern: Annotated[
        str, typer.Argument(help="Only names that hold this text, as in resnet.")
    ] = "",
    macs: Annotated[
        bool, typer.Option("--macs", help="Count MACs of one image, too; half a minute for all.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list and nothing else.")
    ] = False,
) -> None:
    """List the networks of Prunus: their usual input, their size, and where they are from.

    Parameters are all that is trained, BatchNorm included.
    """
    from prunus.pipelines import list_models  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_models  # noqa: PLC0415

    rows = list_models(pattern, macs=macs)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_models(rows, Console())


def data(
    data_root: Annotated[Path, typer.Option(help="Where data sets lie.")] = Path("data"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list and nothing else.")
    ] = False,
) -> None:
    """List the data sets: published splits, source and terms, and whether they are here."""
    from prunus.pipelines import list_data  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_data  # noqa: PLC0415

    rows = list_data(data_root)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_data(rows, Console(), data_root)
