"""`prunus search`: grow, push and prune a network, and compare it with alternatives."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.run_flags import RunFlags, run_command
from prunus.cli.settings import parse_names

__all__ = ["search"]


@run_command
def search(
    flags: RunFlags,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What may be kept of the grown network at most: params=30%, macs=50%, "
            "bytes=200k; and a minimum: accuracy>=97%. Comma-separated."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Maximum number of modules to add.")] = None,
    grow_budget: Annotated[
        str | None,
        typer.Option(help="Upper bounds of the grown network's cost: params=1M, macs=50M."),
    ] = None,
    grow: Annotated[
        bool,
        typer.Option("--grow/--no-grow", help="Grow the network before it is pushed."),
    ] = True,
    base_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the initial network, without --weights.")
    ] = None,
    candidate_epochs: Annotated[int | None, typer.Option(help="Epochs per candidate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the push.")] = None,
    repush: Annotated[
        bool | None,
        typer.Option(
            "--repush/--no-repush", help="Push again after every cut.", show_default="repush"
        ),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Cuts on the way to the budget.")] = None,
    finetune_epochs: Annotated[
        int | None, typer.Option(help="Fine-tuning epochs after each cut.")
    ] = None,
    final_epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    criterion: Annotated[
        str | None, typer.Option(help="Criterion that scores the units: {criteria}.")
    ] = None,
    allocation: Annotated[
        str | None, typer.Option(help="How the budget is distributed over layers: {allocations}.")
    ] = None,
    rivals: Annotated[
        str | None,
        typer.Option(
            help="Criteria that prune the network trained without push, comma-separated; an "
            "allocation of their own after a slash, e.g. l1/global. Empty for none.",
            show_default="deep_lda,activation_mean,taylor,l1,random",
        ),
    ] = None,
    fixed: Annotated[
        str | None,
        typer.Option(
            help="Networks to train on the same data, e.g. tiny_resnet10,squeezenet_cifar."
        ),
    ] = None,
    grown: Annotated[
        bool | None,
        typer.Option(
            "--grown/--no-grown",
            help="Continue training the networks of the growing steps, and compare them.",
            show_default="grown",
        ),
    ] = None,
    finish: Annotated[
        bool | None,
        typer.Option(
            "--finish/--no-finish",
            help="Continue training the intermediate networks for as long as the derived one.",
            show_default="finish",
        ),
    ] = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            help="Derived structures to train from random weights: none, final, all.",
            show_default="final",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train candidates in parallel.",
            show_default="one per stage, at most the number of cores; 1 on a GPU",
        ),
    ] = None,
) -> None:
    """Derive a small network: grow, push, prune; and compare it with alternatives.

    The network must have stages (see `prunus models`), unless --no-grow is given. All networks
    compared are trained here, on the same data, for the same number of epochs.
    """
    own = {
        "budget": budget,
        "grow.steps": steps,
        "grow.budget": grow_budget,
        "grow.base.epochs": base_epochs,
        "grow.candidate.epochs": candidate_epochs,
        "train.epochs": epochs,
        "repush": repush,
        "prune.iterations": iterations,
        "prune.finetune.epochs": finetune_epochs,
        "prune.final.epochs": final_epochs,
        "prune.criterion": criterion,
        "prune.allocation": allocation,
        "rivals": None if rivals is None else parse_names(rivals),
        "fixed": None if fixed is None else parse_names(fixed),
        "finish": finish,
        "grown": grown,
        "scratch": scratch,
    }
    values = flags.settings(
        own, example="push.align=0", needs=("model", "data", "budget"), kind="search"
    )
    if not grow:
        values["grow"] = None
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import SearchConfig, run_search  # noqa: PLC0415
    from prunus.reports import print_search  # noqa: PLC0415

    settings = from_dict(SearchConfig, values, "the settings")
    console = Console()
    journal = run_search(
        settings,
        flags.out,
        resume=flags.resume,
        command=flags.command,
        watch=TerminalWatch(console),
        workers=workers,
    )
    print_search(journal.record.rows, console)
    console.print(f"network: {flags.out / 'derived'}", highlight=False, soft_wrap=True)
    console.print(f"report: {flags.out / 'report.html'}", highlight=False, soft_wrap=True)
