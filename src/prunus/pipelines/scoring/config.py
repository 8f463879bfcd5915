"""Settings of `prunus score`, as written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT, read_yaml, require_sealed, to_dict
from prunus.runs import LatentConfig, RunConfig, require_finished

__all__ = ["ScoreConfig", "settings_of_run"]

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreConfig:
    """What to score, on which images, and with which criterion.

    | setting | meaning |
    |---|---|
    | model, data | as in a run; with `run` it is the pruned network of that run |
    | weights | trained weights; optional only for a network built by the user's own file |
    | run | folder of a finished run |
    | criterion, options | a name of `prunus.criteria.CRITERIA` and its keyword options |
    | latent | which latent dimensions are traced, if the criterion needs it |
    | sampling | how a feature map is sampled: patch, pixel, pool:G, flatten, dual |
    | blocks | K, the number of blocks of images, for intervals |
    | batches | batches to read; null for all |
    | balance | weight each image by 1/N_l, so that classes count equally |
    | parents | the coarser class of each class, one list per granularity |
    | ridge | ρ of the layers' discriminant information, in units of N |
    | level | nominal coverage of the intervals |
    | inputs | whether input pixels and flattened positions are units |
    | ignored_layers | modules whose outputs are not scored |
    """

    model: str
    data: str
    weights: str | None = None
    run: str | None = None
    criterion: str = "stacked"
    options: dict[str, Any] = field(default_factory=dict)
    latent: LatentConfig = field(default_factory=LatentConfig)
    sampling: str = "pixel"
    blocks: Annotated[int, Field(ge=2)] = 8
    batches: Size | None = None
    balance: bool = False
    parents: tuple[tuple[int, ...], ...] = ()
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    inputs: bool = True
    ignored_layers: tuple[str, ...] = ()
    seed: int = 0
    data_root: str = "data"
    batch_size: Size = 128
    input_shape: tuple[Size, Size, Size] | None = None
    device: str = "auto"


def settings_of_run(folder: Path) -> dict[str, Any]:
    """Return the settings to score the pruned network of a finished run as the run did.

    Raises:
        RunFolderError: the folder is missing or the run has not finished.
        ConfigError: its `config.yaml` cannot be read.
    """
    require_finished(folder)
    require_sealed(folder, "config.yaml")
    run = read_yaml(RunConfig, folder / "config.yaml")
    shared = ("model", "data", "seed", "data_root", "batch_size", "input_shape")
    pruning = ("criterion", "options", "inputs", "ignored_layers")
    return {
        "run": str(folder.absolute()),
        **{key: getattr(run, key) for key in shared},
        **{key: getattr(run.prune, key) for key in pruning},
        "latent": to_dict(run.prune.latent),
    }
