"""`prunus <verb>`: parse, build the configuration, call one pipeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.listing import ListingCommand
from prunus.cli.signals import Stopped, say_stopped, stopping
from prunus.cli.streams import encode_streams
from prunus.cli.verbs import data as data_
from prunus.cli.verbs import (
    diff,
    doctor,
    evaluate,
    export,
    grow,
    load,
    models,
    prune,
    push,
    score,
    search,
    train,
)
from prunus.core import PrunusError, installed_version

__all__ = ["app", "main"]

app = typer.Typer(
    name="prunus",
    help="Learn the structure of neural networks: prune, repair, retrain, certify, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"prunus {installed_version()}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Learn the structure of neural networks: prune, repair, retrain, certify, export."""


app.command(cls=ListingCommand)(prune)
app.command()(train)
app.command()(grow)
app.command()(push)
app.command(cls=ListingCommand)(search)
app.command("eval")(evaluate)
app.command()(score)
app.command()(doctor)
app.command()(diff)
app.command()(load)
app.command(cls=ListingCommand)(export)
app.command()(models)
app.command("data")(data_)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
) -> None:
    """Rewrite report.html of a run, finished or not."""
    from prunus.reports import write_report  # noqa: PLC0415

    typer.echo(write_report(run))


def main() -> None:
    """Run the command line.

    An error caused by input, or by a file that cannot be read or written, ends in one sentence and
    exit code 2; a signal in the command to go on with and the shell's code for it.
    """
    encode_streams()
    try:
        with stopping():
            app()
    except PrunusError as error:
        typer.echo(f"prunus: {error}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        place, reason = error.filename or "a file", error.strerror or error
        typer.echo(f"prunus: {place} cannot be read or written ({reason})", err=True)
        raise SystemExit(2) from None
    except Stopped as stopped:
        typer.echo(f"prunus: {say_stopped(stopped, sys.argv[1:])}", err=True)
        raise SystemExit(128 + stopped.number) from None
