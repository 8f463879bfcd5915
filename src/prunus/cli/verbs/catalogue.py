"""`prunus models` and `prunus data`: the known names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["data", "models"]


def models(
    pattern: Annotated[
        str, typer.Argument(help="Only names that contain this text, e.g. resnet.")
    ] = "",
    macs: Annotated[
        bool,
        typer.Option("--macs", help="Also count the MACs of one image; half a minute for all."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list and nothing else.")
    ] = False,
) -> None:
    """List the networks of Prunus with their default input, size and source.

    Parameters are all trainable ones, including BatchNorm's.
    """
    from prunus.pipelines import list_models  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_models  # noqa: PLC0415

    rows = list_models(pattern, macs=macs)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_models(rows, Console())


def data(
    data_root: Annotated[Path, typer.Option(help="Directory of the data sets.")] = Path("data"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON list and nothing else.")
    ] = False,
) -> None:
    """List the data sets: published splits, source, licence, and whether they are present."""
    from prunus.pipelines import list_data  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_data  # noqa: PLC0415

    rows = list_data(data_root)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_data(rows, Console(), data_root)
