"""Settings of the pipelines, as they are written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT
from prunus.plan import BudgetText
from prunus.training import TrainConfig

__all__ = ["JobConfig", "LatentConfig", "PruneConfig", "RunConfig"]

Size = Annotated[int, Field(gt=0)]
Compensation = Literal["none", "bias", "pointwise", "patch", "joint", "merge"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LatentConfig:
    """What of the last hidden layer is traced, for criteria that need traces (`deep_lda`).

    | setting | meaning |
    |---|---|
    | select | which latent dimensions: `sensitivity`, the fewest that keep the accuracy on |
    | | validation; `otsu`, those above Otsu's threshold; `all`; or a number of the best |
    | drop | accuracy that `sensitivity` may lose, 0 to 1 |
    | rule | how their response is traced: `relevance`, or `deconvolution` [Tian], which is |
    | | blind to what inhibits (see `trace_utility`) |
    | images_a_class | images traced of each class; null for all |
    """

    select: Annotated[str, Field(pattern=r"^(sensitivity|otsu|all|[1-9][0-9]*)$")] = "sensitivity"
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.005
    rule: Literal["relevance", "deconvolution"] = "relevance"
    images_a_class: Size | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PruneConfig:
    """How to prune: the settings of a PS-iteration, and all their defaults.

    | setting | meaning |
    |---|---|
    | criterion | a name of `prunus.criteria.CRITERIA` |
    | options | keyword options of the criterion |
    | intervals | whether losses are predicted with an interval (criterion time × blocks) |
    | sampling | how `collect` takes samples of a map |
    | blocks | parts of the images that are kept apart, for intervals |
    | calibration_batches | batches that scores are collected on; null for all of them |
    | parents | coarser class of each class, one list a granularity, from fine to coarse |
    | latent | what of the last hidden layer is traced, where the criterion needs it |
    | allocation | `global`, `uniform`, `dp` or `threshold` (see `make_plan`) |
    | round_to | units left of a group are a multiple of it; null: 1, or with a budget in ms what |
    | | its latency table shows (see `choose_round_to`) |
    | least | share of each group that a cut leaves at least |
    | drop_branches | whether a branch of a concatenation may go as a whole; not with `dp`, nor |
    | | with criteria whose costs count on what stays (`stacked`, `di`, `structural`) |
    | inputs | whether input pixels and flattened positions are units |
    | heads | what of an attention is a unit: `whole` heads or `dimensions` inside all of them |
    | ignored_layers | modules whose outputs stay whole |
    | keep_class | classes, by index or name, whose best units never go |
    | keep_share | share of each group that is best for a kept class |
    | compensate | repair of what reads the cut channels: see `apply_` |
    | ridge | ρ of the compensation, in units of the mean eigenvalue |
    | batchnorm | whether BatchNorm is re-estimated after a cut: `auto`, `always` or `never` |
    | shrink | share of the old BatchNorm statistics that stays |
    | repair_images | calibration images that repair and BatchNorm see; null for enough of them |
    | iterations | S-phases on the way to limits; each prunes the same share of what is left |
    | min_accuracy | floor of validation accuracy, 0 to 1; below it the loop steps back and stops |
    | step | of a search for an accuracy: share of the present cost that the next try aims at |
    | iterations_max | tries of such a search |
    | latency_batch | images a batch that a budget in ms is about |
    | keep_networks | whether a run folder keeps the weights after every iteration (`networks/`) |
    | runtimes | in what else than PyTorch both networks are timed: `onnxruntime`, where a run |
    | | writes `model.onnx` (`prune` in Python does not), and `compile`, which takes minutes |
    | finetune | the P-phase after each cut |
    | final | the P-phase at the end |
    """

    criterion: str = "stacked"
    options: dict[str, Any] = field(default_factory=dict)
    intervals: bool = True
    sampling: str = "pixel"
    blocks: Size = 8
    calibration_batches: Size | None = None
    parents: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()
    latent: LatentConfig = field(default_factory=LatentConfig)
    allocation: Literal["global", "uniform", "dp", "threshold"] = "global"
    round_to: Size | None = None
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_branches: bool = False
    inputs: bool = True
    heads: Literal["whole", "dimensions"] = "whole"
    ignored_layers: tuple[str, ...] = ()
    keep_class: tuple[int | str, ...] = ()
    keep_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    compensate: Compensation = "joint"
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    batchnorm: Literal["auto", "always", "never"] = "auto"
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.0
    repair_images: Size | None = None
    iterations: Size = 6
    min_accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    step: Annotated[float, Field(gt=0, lt=1)] = 0.7
    iterations_max: Size = 30
    latency_batch: Size = 1
    keep_networks: bool = False
    runtimes: tuple[Literal["compile", "onnxruntime"], ...] = ("onnxruntime",)
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3, distill=0.5))
    final: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=15, distill=0.5))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JobConfig:
    """What every run is given: a network, data, a device.

    `input_shape` and `num_classes` are the data's where not given. With `channels_last` networks
    train in that memory format (see `fit_`).
    """

    model: str
    data: str
    weights: str | None = None
    seed: int = 0
    data_root: str = "data"
    batch_size: Size = 128
    augment: bool = False
    input_shape: tuple[Size, Size, Size] | None = None
    num_classes: Size | None = None
    device: str = "auto"
    precision: str = "32-true"
    channels_last: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig(JobConfig):
    """The main job: a model, data and a budget.

    Without a budget a run only trains (`prunus train`), and `prune` is not looked at.
    `export` names the formats, of `prunus.export.FORMATS`, that the network is written in.
    """

    budget: BudgetText | None = None
    export: tuple[Literal["onnx", "pt2", "openvino"], ...] = ("onnx",)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=20))
    prune: PruneConfig = field(default_factory=PruneConfig)

    @property
    def aim(self) -> str:
        """What the run is for, in a word: its budget, or training alone."""
        return "trained" if self.budget is None else self.budget
