"""`prunus grow`: add modules to a network where they help most."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.run_flags import RunFlags, run_command

__all__ = ["grow"]


@run_command
def grow(
    flags: RunFlags,
    steps: Annotated[int | None, typer.Option(help="Maximum number of modules to add.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Upper bounds of the network's cost, and the accuracy at which to stop: "
            "params=1M, macs=50M, accuracy>=97%. Comma-separated."
        ),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="How to choose the candidate to keep: by validation accuracy after a short "
            "training (accuracy), or by discriminant information before training (information).",
            show_default="accuracy",
        ),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many steps in a row without gain.")
    ] = None,
    preserve: Annotated[
        bool | None,
        typer.Option("--preserve/--no-preserve", help="New modules start as the identity."),
    ] = None,
    base_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the initial network, without --weights.")
    ] = None,
    candidate_epochs: Annotated[int | None, typer.Option(help="Epochs per candidate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the grown network.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train candidates in parallel.",
            show_default="one per stage, at most the number of cores; 1 on a GPU",
        ),
    ] = None,
) -> None:
    """Grow a network greedily: each step adds one module, in the stage where it helps most.

    The network must have stages (see `prunus models`), e.g. inception_v1_small, or be grown
    already, e.g. inception_v1_small@3,5,2. Without --weights it is trained first.
    """
    own = {
        "grow.steps": steps,
        "grow.budget": budget,
        "grow.choose": choose,
        "grow.patience": patience,
        "grow.preserve": preserve,
        "grow.base.epochs": base_epochs,
        "grow.candidate.epochs": candidate_epochs,
        "train.epochs": epochs,
    }
    values = flags.settings(own, example="grow.candidate.lr=1e-3", kind="grow")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import GrowRunConfig, run_grow  # noqa: PLC0415
    from prunus.reports import print_grown  # noqa: PLC0415

    settings = from_dict(GrowRunConfig, values, "the settings")
    console = Console()
    journal = run_grow(
        settings,
        flags.out,
        resume=flags.resume,
        command=flags.command,
        watch=TerminalWatch(console),
        workers=workers,
    )
    print_grown(journal.record.rows, console)
    console.print(f"network: {flags.out / 'grown'}", highlight=False, soft_wrap=True)
