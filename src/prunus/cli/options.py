"""The options shared by several commands: one declaration each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "MODEL_HELP",
    "AsJson",
    "Augment",
    "BatchSize",
    "ChannelsLast",
    "DataName",
    "DataRoot",
    "Device",
    "Download",
    "InputShape",
    "ModelName",
    "Precision",
    "Resume",
    "RunInputShape",
    "RunNumClasses",
    "Seed",
    "Settings",
    "Trust",
    "Weights",
]

MODEL_HELP = (
    "A name listed by `prunus models` (with stage sizes for a grown network, e.g. "
    "resnet20@3,4,5), torchvision:NAME, timm:NAME or path/to/file.py:factory."
)

ModelName = Annotated[str | None, typer.Option(help=MODEL_HELP)]
DataName = Annotated[
    str | None, typer.Option(help="A name listed by `prunus data`, e.g. mnist, or folder:PATH.")
]
Weights = Annotated[Path | None, typer.Option(help="Trained weights (.safetensors, .pt).")]
DataRoot = Annotated[Path | None, typer.Option(help="Directory of the data sets.")]
SHAPE_HELP = "Channels, height, width, e.g. 3,32,32."
InputShape = Annotated[str | None, typer.Option(help=SHAPE_HELP)]
RunInputShape = Annotated[
    str | None, typer.Option(help=SHAPE_HELP, show_default="as recorded in the run")
]
RunNumClasses = Annotated[
    int | None, typer.Option(help="Number of classes.", show_default="as recorded in the run")
]
BatchSize = Annotated[int | None, typer.Option(help="Images per batch.")]
Augment = Annotated[
    bool | None, typer.Option("--augment/--no-augment", help="Shift or crop training images.")
]
Seed = Annotated[int | None, typer.Option(help="Random seed.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.")]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed, 16-mixed.")]
ChannelsLast = Annotated[
    bool | None,
    typer.Option(
        "--channels-last/--no-channels-last",
        help="Train in the channels-last memory format; often faster.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting by its path, e.g. train.lr=1e-3; repeatable."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download mnist, svhn, cifar10, cifar100 or flowers102 over https if it is missing.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the source file that only the run folder or the recipe names."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
