"""`prunus push`: train with the Deep LDA objectives."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.run_flags import RunFlags, run_command

__all__ = ["push"]


@run_command
def push(
    flags: RunFlags,
    form: Annotated[
        str | None,
        typer.Option(help="lda: N/Σv of Tian's thesis; di: 1 − DI/tr(YYᵀ), which is bounded."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
) -> None:
    """Train so that few neurons of the last hidden layer separate the classes."""
    own = {"train.epochs": epochs, "train.lr": lr, "train.push.form": form}
    values = flags.settings(own, example="train.push.cov=0.5", start={"train.push": {}})
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import run_push  # noqa: PLC0415
    from prunus.reports import print_pushed, say_trained  # noqa: PLC0415
    from prunus.runs import RunConfig  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    journal = run_push(
        settings,
        flags.out,
        resume=flags.resume,
        command=flags.command,
        watch=TerminalWatch(console),
    )
    print_pushed(journal.record.rows, console)
    console.print(say_trained(journal.record.rows), highlight=False)
    network = flags.out / "model.safetensors"
    console.print(f"network: {network}", highlight=False, soft_wrap=True)
