"""`prunus eval`: measure a network on a split of its data."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from prunus.cli.network_flags import NetworkFlags, network_command, require_network
from prunus.cli.options import AsJson

__all__ = ["evaluate"]

OF_RUN = ("run", "model", "data", "seed", "data_root", "batch_size", "input_shape")


@network_command
def evaluate(
    flags: NetworkFlags,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Measure accuracy with its 95 % interval, or PSNR and SSIM; count parameters and MACs."""
    values = flags.settings({"split": split}, of_run=OF_RUN)
    require_network(values)
    from prunus.cli.progress import TerminalWatch  # noqa: PLC0415 - torch takes seconds
    from prunus.core import from_dict  # noqa: PLC0415
    from prunus.pipelines import EvalConfig, run_eval  # noqa: PLC0415
    from prunus.reports import say_evaluation  # noqa: PLC0415
    from prunus.runs import Watch  # noqa: PLC0415

    settings = from_dict(EvalConfig, values, "the settings")
    console = Console(stderr=as_json)
    watch = Watch() if as_json else TerminalWatch(console)
    found = run_eval(settings, watch=watch, trust=flags.trust).to_dict()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(say_evaluation(found), highlight=False, soft_wrap=True)
