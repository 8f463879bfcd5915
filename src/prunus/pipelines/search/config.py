"""Settings of `prunus search`, as written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT
from prunus.pipelines.grow import GrowConfig
from prunus.plan import BudgetText
from prunus.runs import Allocation, ExportFormat, JobConfig, PruneConfig
from prunus.training import PushConfig, TrainConfig

__all__ = ["SearchConfig", "SearchPruneConfig"]

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchPruneConfig(PruneConfig):
    """`PruneConfig` with the defaults of [Tian, Algorithm 2].

    Whole branches are removed (section 3.3.4); rivals that do not support it keep theirs.
    """

    criterion: str = "deep_lda"
    allocation: Allocation = "threshold"
    drop_branches: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchConfig(JobConfig):
    """Grow, push and prune a network, and compare it with its rivals [Tian, chapter 4].

    | setting | meaning |
    |---|---|
    | model | the network to grow; one that is grown already, e.g. inception_v1@3,5,2, continues |
    | budget | what may be kept of the grown network, e.g. params=30%, macs=50% |
    | weights | of `model`; null: it is trained first, see `grow.base` |
    | grow | how it grows; null: not at all, and the push starts from `model` |
    | push | the push terms |
    | train | the training of the grown network with the push; for rivals without it |
    | prune | how the pushed network is pruned |
    | repush | whether the trainings after cuts push again, as in Algorithm 2 |
    | rivals | criteria that prune the network trained without push, in the same way; an |
    | | allocation of their own after a slash, e.g. l1/global |
    | finish | whether the training of the intermediate networks is continued, so that the whole |
    | | curve is trained for the same number of epochs |
    | grown | whether the networks of the growing steps are trained further and compared |
    | scratch | derived structures to train from random weights: of the last iteration |
    | | (`final`), of each (`all`), or `none` |
    | fixed | networks by name to train on the same data, e.g. tiny_resnet10 |

    Every network compared is trained for as many epochs in total as the final derived one.

    Example:
        >>> import prunus
        >>> prunus.SearchConfig(model="resnet20", data="digits", budget={"params": "40%"}).budget
        'params=40%'
    """

    budget: BudgetText
    export: tuple[ExportFormat, ...] = ("onnx",)
    grow: GrowConfig | None = field(default_factory=GrowConfig)
    push: PushConfig = field(default_factory=PushConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=20))
    prune: SearchPruneConfig = field(default_factory=SearchPruneConfig)
    repush: bool = True
    rivals: tuple[str, ...] = ("deep_lda", "activation_mean", "taylor", "l1", "random")
    finish: bool = True
    grown: bool = True
    scratch: Literal["none", "final", "all"] = "final"
    fixed: tuple[str, ...] = ()

    @property
    def aim(self) -> str:
        """The purpose of the run in a word."""
        return self.budget
