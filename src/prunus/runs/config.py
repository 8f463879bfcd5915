"""Settings of the pipelines, as written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT, one_of
from prunus.evaluation import RUNTIMES
from prunus.export import FORMATS
from prunus.plan import ALLOCATIONS, BudgetText
from prunus.statistics import TRACE_RULES
from prunus.surgery import BATCHNORM_RULES, COMPENSATIONS
from prunus.training import TrainConfig

__all__ = [
    "Allocation",
    "ExportFormat",
    "JobConfig",
    "LatentConfig",
    "PruneConfig",
    "RunConfig",
    "default_training",
]

Size = Annotated[int, Field(gt=0)]
Allocation = Annotated[str, one_of(ALLOCATIONS)]
ExportFormat = Annotated[str, one_of(FORMATS)]
#: What networks are timed in besides PyTorch as it is, the first of `RUNTIMES`.
OtherRuntime = Annotated[str, one_of(RUNTIMES[1:])]


def default_training() -> TrainConfig:
    """Return how a network is trained where nothing else is said, by name or in Python."""
    return TrainConfig(epochs=20)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LatentConfig:
    """Which dimensions of the last hidden layer are traced, for criteria that need it (`deep_lda`).

    | setting | meaning |
    |---|---|
    | select | which latent dimensions: `sensitivity`, the fewest that keep the validation |
    | | accuracy; `otsu`, those above Otsu's threshold; `all`; or a number, to keep the best |
    | drop | accuracy that `sensitivity` may lose, 0 to 1 |
    | rule | how their response is traced: `relevance`, or `deconvolution` [Tian], which is |
    | | blind to inhibition (see `trace_utility`) |
    | images_a_class | images to trace per class; null for all |
    """

    select: Annotated[str, Field(pattern=r"^(sensitivity|otsu|all|[1-9][0-9]*)$")] = "sensitivity"
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.005
    rule: Annotated[str, one_of(TRACE_RULES)] = "relevance"
    images_a_class: Size | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PruneConfig:
    """How to prune: the settings of a PS-iteration, with their defaults.

    | setting | meaning |
    |---|---|
    | criterion | a name of `prunus.criteria.CRITERIA` |
    | options | keyword options of the criterion |
    | intervals | whether losses are predicted with an interval (criterion time × blocks) |
    | sampling | how `collect` samples a feature map |
    | blocks | number of blocks of images with separate sums, for intervals |
    | calibration_batches | batches to collect statistics on; null for all |
    | parents | coarser class of each class, one list per granularity, from fine to coarse |
    | latent | which latent dimensions are traced, if the criterion needs it |
    | allocation | `global`, `uniform`, `dp` or `threshold` (see `make_plan`) |
    | round_to | keep a multiple of this many units per group; null: 1, or with a budget in ms the |
    | | multiple chosen from its latency table (see `choose_round_to`) |
    | least | minimum share of each group that a cut keeps |
    | drop_branches | whether a whole branch of a concatenation may be removed; not with `dp`, nor |
    | | with criteria whose costs depend on the kept units (`stacked`, `di`, `structural`) |
    | inputs | whether input pixels and flattened positions are units |
    | heads | the unit of an attention: `whole` heads or `dimensions` inside all of them |
    | ignored_layers | modules whose outputs are not pruned |
    | keep_class | classes, by index or name, whose best units are never removed |
    | keep_share | share of each group to protect for a kept class |
    | compensate | repair of the consumers of cut channels: see `apply_` |
    | ridge | ρ of the compensation, in units of the mean eigenvalue |
    | batchnorm | whether BatchNorm is re-estimated after a cut: `auto`, `always` or `never` |
    | shrink | share of the old BatchNorm statistics to keep |
    | repair_images | calibration images for repair and BatchNorm; null for a sufficient number |
    | iterations | prune steps on the way to the limits; each prunes the same share of the rest |
    | min_accuracy | minimum validation accuracy, 0 to 1; below it the loop steps back and stops |
    | step | of a search for an accuracy: target of the next attempt, as a share of its cost |
    | iterations_max | maximum number of attempts of such a search |
    | latency_batch | batch size that a budget in ms refers to |
    | keep_networks | whether a run folder keeps the weights after every iteration (`networks/`) |
    | runtimes | runtimes besides PyTorch to time both networks in: `onnxruntime`, if the run |
    | | writes `model.onnx` (`prune` in Python does not), and `compile`, which takes minutes |
    | finetune | the fine-tuning after each cut |
    | final | the final training |

    Example:
        >>> import prunus
        >>> prunus.PruneConfig(criterion="l1", iterations=1).compensate
        'joint'
    """

    criterion: str = "stacked"
    options: dict[str, Any] = field(default_factory=dict)
    intervals: bool = True
    sampling: str = "pixel"
    blocks: Size = 8
    calibration_batches: Size | None = None
    parents: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()
    latent: LatentConfig = field(default_factory=LatentConfig)
    allocation: Allocation = "global"
    round_to: Size | None = None
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_branches: bool = False
    inputs: bool = True
    heads: Literal["whole", "dimensions"] = "whole"
    ignored_layers: tuple[str, ...] = ()
    keep_class: tuple[int | str, ...] = ()
    keep_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    compensate: Annotated[str, one_of(COMPENSATIONS)] = "joint"
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    batchnorm: Annotated[str, one_of(BATCHNORM_RULES)] = "auto"
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.0
    repair_images: Size | None = None
    iterations: Size = 6
    min_accuracy: Annotated[float | None, Field(ge=0, le=1)] = None
    step: Annotated[float, Field(gt=0, lt=1)] = 0.7
    iterations_max: Size = 30
    latency_batch: Size = 1
    keep_networks: bool = False
    runtimes: tuple[OtherRuntime, ...] = ("onnxruntime",)
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3, distill=0.5))
    final: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=15, distill=0.5))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JobConfig:
    """The settings of every run: a network, data, a device.

    `input_shape` and `num_classes` default to those of the data. With `channels_last` networks
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

    Without a budget a run only trains (`prunus train`), and `prune` is ignored. `export` names
    the formats, from `prunus.export.FORMATS`, to write the network in.
    """

    budget: BudgetText | None = None
    export: tuple[ExportFormat, ...] = ("onnx",)
    train: TrainConfig = field(default_factory=default_training)
    prune: PruneConfig = field(default_factory=PruneConfig)

    @property
    def aim(self) -> str:
        """The purpose of the run in a word: its budget, or training only."""
        return "trained" if self.budget is None else self.budget
