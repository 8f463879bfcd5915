"""Settings of the pipelines, as they are written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT
from prunus.training import TrainConfig

__all__ = ["PruneConfig", "RunConfig"]

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PruneConfig:
    """How to prune: the settings of a PS-iteration.

    | setting | meaning |
    |---|---|
    | criterion | a name of `prunus.criteria.CRITERIA` |
    | options | keyword options of the criterion |
    | allocation | `global` or `uniform` (see `make_plan`) |
    | iterations | S-phases; each prunes the same share of what is left |
    | min_accuracy | floor of validation accuracy, 0 to 1; below it the loop steps back and stops |
    | least | share of each group that always stays |
    | compensate | `pointwise` or `none` |
    | ridge | ρ of the compensation, in units of the mean eigenvalue |
    | inputs | whether input pixels and flattened positions are units |
    | ignored_layers | modules whose outputs stay whole |
    | calibration_batches | batches that scores are collected on; null for all of them |
    | finetune | the P-phase after each cut |
    | final | the P-phase at the end |
    """

    criterion: str = "stacked"
    options: dict[str, Any] = field(default_factory=dict)
    allocation: Literal["global", "uniform"] = "global"
    iterations: Annotated[int, Field(ge=1)] = 6
    min_accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0
    compensate: Literal["pointwise", "none"] = "pointwise"
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    inputs: bool = True
    ignored_layers: tuple[str, ...] = ()
    calibration_batches: Annotated[int | None, Field(gt=0)] = None
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3, distill=0.5))
    final: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=15, distill=0.5))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """The main job: a model, data and a budget. `input_shape` is the data's where not given."""

    model: str
    data: str
    budget: str
    weights: str | None = None
    seed: int = 0
    data_root: str = "data"
    batch_size: Size = 128
    augment: bool = False
    input_shape: tuple[Size, Size, Size] | None = None
    num_classes: Size | None = None
    device: str = "auto"
    precision: str = "32-true"
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=20))
    prune: PruneConfig = field(default_factory=PruneConfig)
