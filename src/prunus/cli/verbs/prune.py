"""`prunus prune`: the main job."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.run_flags import RunFlags, run_command
from prunus.cli.settings import parse_names

__all__ = ["prune"]


@run_command
def prune(
    flags: RunFlags,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What may be kept at most: params=10%, macs=50%, bytes=200k, ms=1.5 (measured "
            "on this machine); and a minimum: accuracy>=97%. Comma-separated."
        ),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="Criterion that scores the units: {criteria}.")
    ] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is distributed over layers: {allocations}.")
    ] = None,
    compensate: Annotated[
        str | None,
        typer.Option(help="How consumers of cut channels are repaired: {compensations}."),
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(
            help="Keep a multiple of this many channels in each layer.",
            show_default="1; with a budget in ms, chosen from the measured layers",
        ),
    ] = None,
    keep_class: Annotated[
        list[str] | None,
        typer.Option(
            help="Class, by name or index, whose best units are never removed; repeatable."
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Prune steps on the way to the limits.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Minimum validation accuracy, 0 to 1.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of training the dense network.")
    ] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Fine-tuning epochs after each cut.")
    ] = None,
    final_epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    export_: Annotated[
        str | None,
        typer.Option(
            "--export", help="Formats to write at the end: {formats}.", show_default="onnx"
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Runtime besides PyTorch to time the networks in at the end: onnxruntime, "
            "compile (takes minutes); repeatable.",
            show_default="onnxruntime",
        ),
    ] = None,
) -> None:
    """Prune a network to a budget: train or load, score, cut, repair, retrain, report, export."""
    own = {
        "budget": budget,
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
    values = flags.settings(own, example="train.lr=1e-3", needs=("model", "data", "budget"))
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import run_prune  # noqa: PLC0415
    from prunus.reports import print_exports, print_headline  # noqa: PLC0415
    from prunus.runs import RunConfig  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    journal = run_prune(
        settings,
        flags.out,
        resume=flags.resume,
        command=flags.command,
        watch=TerminalWatch(console),
    )
    print_headline(journal.record.rows, console)
    print_exports(journal.record.rows, console)
    report = flags.out / "report.html"
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
