"""Settings of `prunus search`, as they are written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT
from prunus.pipelines.grow import GrowConfig
from prunus.plan import BudgetText
from prunus.runs import JobConfig, PruneConfig
from prunus.training import PushConfig, TrainConfig

__all__ = ["SearchConfig", "SearchPruneConfig"]

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchPruneConfig(PruneConfig):
    """`PruneConfig` with what [Tian, Algorithm 2] prunes by, where nothing else is said.

    Branches go as a whole (section 3.3.4); rivals that cannot have it keep theirs.
    """

    criterion: str = "deep_lda"
    allocation: Literal["global", "uniform", "dp", "threshold"] = "threshold"
    drop_branches: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchConfig(JobConfig):
    """Grow, push and prune a network, and the rivals it is compared with [Tian, chapter 4].

    | setting | meaning |
    |---|---|
    | model | the network to grow; one that is grown already, as inception_v1@3,5,2, goes on |
    | budget | what is left of the grown network at most, as in params=30%, macs=50% |
    | weights | of `model`; null: it is trained first, as `grow.base` says |
    | grow | how it grows; null: not at all, and the push starts at `model` |
    | push | the push terms |
    | train | the training of the grown network with the push; rivals have it without |
    | prune | how the pushed network is pruned |
    | repush | whether the trainings after cuts push again, as in Algorithm 2 |
    | rivals | criteria that prune the network trained without push, in the same way; an |
    | | allocation of their own behind a slash, as in l1/global |
    | finish | whether the networks on the way to the derived one are trained on, so that its |
    | | curve has seen as many epochs everywhere |
    | grown | whether the networks met while growing are trained on and compared |
    | scratch | derived structures that are trained from random weights: of the last iteration |
    | | (`final`), of each (`all`), or `none` |
    | fixed | networks by name that are trained on the same data, as tiny_resnet10 |

    Every network that is compared sees as many epochs as the derived one has in the end.
    """

    budget: BudgetText
    export: tuple[Literal["onnx", "pt2", "openvino"], ...] = ("onnx",)
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
        """What the run is for, in a word."""
        return self.budget
