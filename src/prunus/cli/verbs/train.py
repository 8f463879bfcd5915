"""`prunus train`: train a network by name on data by name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.run_flags import RunFlags, run_command

__all__ = ["train"]


@run_command
def train(
    flags: RunFlags,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
) -> None:
    """Train a network; measure the last epoch's weights once on the test split."""
    own = {"train.epochs": epochs, "train.lr": lr}
    values = flags.settings(own, example="train.lr=1e-3")
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import run_train  # noqa: PLC0415
    from prunus.reports import say_trained  # noqa: PLC0415
    from prunus.runs import RunConfig  # noqa: PLC0415

    settings = from_dict(RunConfig, values, "the settings")
    console = Console()
    journal = run_train(
        settings,
        flags.out,
        resume=flags.resume,
        command=flags.command,
        watch=TerminalWatch(console),
    )
    console.print(say_trained(journal.record.rows), highlight=False)
    network = flags.out / "model.safetensors"
    console.print(f"network: {network}", highlight=False, soft_wrap=True)
