"""`prunus <verb>`: parse, build the configuration, call one pipeline."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.catalogue import data as data_
from prunus.cli.catalogue import models
from prunus.cli.diff import diff
from prunus.cli.doctor import doctor
from prunus.cli.evaluate import evaluate
from prunus.cli.export import export
from prunus.cli.grow import grow
from prunus.cli.listing import ListingCommand
from prunus.cli.load import load
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
from prunus.cli.push import push
from prunus.cli.score import score
from prunus.cli.settings import (
    base_settings,
    parse_names,
    parse_shape,
    put_flags,
    put_settings,
)
from prunus.cli.train import train
from prunus.core.errors import ConfigError, PrunusError

__all__ = ["app", "main"]

app = typer.Typer(
    name="prunus",
    help="Learn the structure of neural networks: prune, repair, retrain, certify, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Learn the structure of neural networks: prune, repair, retrain, certify, export."""
    if show:
        from importlib.metadata import version as installed  # noqa: PLC0415

        typer.echo(f"prunus {installed('prunus')}")
        raise typer.Exit


@app.command(cls=ListingCommand)
def prune(
    out: Annotated[Path, typer.Option(help="Folder of the run; made here.")],
    model: ModelName = None,
    data: DataName = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What is kept at most: params=10%, macs=50%, bytes=200k, ms=1.5 (measured on "
            "this machine); and what must be: accuracy>=97%. Several with commas."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config.yaml to start from; flags override it.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights (.safetensors, .pt); else train first.")
    ] = None,
    data_root: DataRoot = None,
    input_shape: InputShape = None,
    criterion: Annotated[str | None, typer.Option(help="What a unit is worth: {criteria}.")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is spread over layers: {allocations}.")
    ] = None,
    compensate: Annotated[
        str | None, typer.Option(help="How what stays takes over: {compensations}.")
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(
            help="Channels left of a layer are a multiple of it; with a budget in ms and none "
            "given, what the measured layers show."
        ),
    ] = None,
    keep_class: Annotated[
        list[str] | None,
        typer.Option(help="A class, by name or index, whose best units never go; repeatable."),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="S-phases on the way to limits.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Floor of validation accuracy, 0 to 1.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the dense training.")] = None,
    finetune_epochs: Annotated[int | None, typer.Option(help="Epochs after each cut.")] = None,
    final_epochs: Annotated[int | None, typer.Option(help="Epochs at the end.")] = None,
    batch_size: BatchSize = None,
    augment: Augment = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    export_: Annotated[
        str | None,
        typer.Option(
            "--export", help="Formats written at the end: {formats}.", show_default="onnx"
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="In what else than PyTorch the networks are timed at the end: onnxruntime, "
            "compile (minutes); repeatable.",
            show_default="onnxruntime",
        ),
    ] = None,
    set_: Settings = None,
    resume: Resume = False,
) -> None:
    """Prune a network to a budget: train or load, score, cut, repair, retrain, report, export."""
    flags = {
        "model": model,
        "data": data,
        "budget": budget,
        "weights": weights,
        "data_root": data_root,
        "input_shape": parse_shape(input_shape),
        "batch_size": batch_size,
        "augment": augment,
        "seed": seed,
        "device": device,
        "precision": precision,
        "export": None if export_ is None else parse_names(export_),
        "train.epochs": epochs,
        "prune.criterion": criterion,
        "prune.allocation": allocation,
        "prune.compensate": compensate,
        "prune.round_to": round_to,
        "prune.keep_class": keep_class or None,
        "prune.runtimes": runtime or None,
        "prune.iterations": iterations,
        "prune.min_accuracy": min_accuracy,
        "prune.finetune.epochs": finetune_epochs,
        "prune.final.epochs": final_epochs,
    }
    values = base_settings(config, out if resume else None)
    put_flags(values, flags)
    put_settings(values, set_ or (), "train.lr=1e-3")
    for key in ("model", "data", "budget"):
        if key not in values:
            raise ConfigError(f"no {key} came: give --{key}, or --config with one")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import RunConfig, run_prune  # noqa: PLC0415
    from prunus.reports import print_exports, print_headline  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    command = "prunus " + shlex.join(sys.argv[1:])
    journal = run_prune(settings, out, resume=resume, command=command, watch=TerminalWatch(console))
    print_headline(journal.record.rows, console)
    print_exports(journal.record.rows, console)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


app.command()(train)
app.command()(grow)
app.command()(push)
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
    """Write report.html of a run anew, also of one that is not finished."""
    from prunus.reports import write_report  # noqa: PLC0415

    typer.echo(write_report(run))


def main() -> None:
    """Run the command line; what input can cause ends in one sentence and exit code 2."""
    try:
        app()
    except PrunusError as error:
        typer.echo(f"prunus: {error}", err=True)
        raise SystemExit(2) from None
