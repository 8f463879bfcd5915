"""`prunus score`: rank the layers and the channels of a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.network_flags import NetworkFlags, network_command, require_network
from prunus.cli.settings import put_settings

__all__ = ["score"]


@network_command
def score(
    flags: NetworkFlags,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder; earlier scores in it are replaced.",
            show_default="runs/scores, or scores in the run folder",
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(help="stacked, di, fdr, taylor, l1 …; an unknown name lists all."),
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="patch, pixel, pool:G, flatten, flatten:G or dual.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Units to print at each end of each group.")] = 3,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any setting by its path: options.mu=0.2, blocks=16; repeatable."
        ),
    ] = None,
) -> None:
    """Rank layers by the class information they carry and channels by score, with intervals."""
    values = flags.settings({"sampling": sampling})
    if criterion is not None and criterion != values.get("criterion"):
        values |= {
            "criterion": criterion,
            "options": {},
        }  # the run's options are its criterion's
    put_settings(values, set_ or (), "options.mu=0.2")
    require_network(values)
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import ScoreConfig, run_score  # noqa: PLC0415
    from prunus.reports import print_scores  # noqa: PLC0415

    settings = from_dict(ScoreConfig, values, "the settings")
    folder = out or (Path("runs/scores") if flags.run is None else flags.run / "scores")
    console = Console()
    report = run_score(
        settings,
        folder,
        command=flags.command,
        watch=TerminalWatch(console),
        trust=flags.trust,
    )
    print_scores(report.content, console, top=top)
    console.print(f"page: {folder / 'scores.html'}", highlight=False, soft_wrap=True)
