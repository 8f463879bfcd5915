"""`prunus diff`: show what one run removed that another kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["diff"]


def diff(
    a: Annotated[Path, typer.Argument(help="Folder of a finished run, or a plan.json.")],
    b: Annotated[Path, typer.Argument(help="Another one of the same network.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with all indices.")
    ] = False,
) -> None:
    """Show what one run removed that the other kept, and how much agreement chance would give.

    Exit code 0: compared, whether they differ or not.

    Exit code 2: bad input, or plans of different networks.
    """
    from prunus.pipelines import run_diff  # noqa: PLC0415 - torch takes seconds
    from prunus.reports import print_difference  # noqa: PLC0415

    content = run_diff(a, b).to_dict()
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        print_difference(content, Console())
