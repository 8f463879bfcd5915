"""Settings of `prunus grow`, as they are written to `config.yaml`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT
from prunus.plan import BudgetText
from prunus.runs import JobConfig
from prunus.training import TrainConfig

__all__ = ["GrowConfig", "GrowRunConfig"]

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrowConfig:
    """How to grow greedily [Tian, Algorithm 3].

    | setting | meaning |
    |---|---|
    | steps | modules that are added at most; null: until nothing more is gained or fits |
    | budget | what the network may cost at most (params=1M, macs=50M, bytes=4M), and the accuracy |
    | | that is enough (accuracy>=97%); null: no bound |
    | choose | which candidate stays: the best on validation after a brief training (`accuracy`), |
    | | or the one whose last hidden layer explains most before any training (`information`) |
    | patience | steps in a row without gain after which growing stops |
    | min_gain | what counts as gain of a step, in accuracy or share of information, 0 to 1 |
    | preserve | whether new modules start as the identity |
    | threads | of each candidate; null: cores ÷ workers. Sums of floats, and so results, hang on |
    | | them in their last bits; on the number of workers they do not |
    | images | calibration images that information is measured on, spread over all of them |
    | ridge | ρ of the information, in units of N |
    | base | the training of the network to start from, where no weights came |
    | candidate | the training of each candidate, or of the chosen one where information chooses |
    """

    steps: Size | None = None
    budget: BudgetText | None = None
    choose: Literal["accuracy", "information"] = "accuracy"
    patience: Size = 2
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.001
    preserve: bool = False
    threads: Size | None = None
    images: Size = 10_000
    ridge: Annotated[float, Field(gt=0)] = 1e-3
    base: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10))
    candidate: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrowRunConfig(JobConfig):
    """A network that declares stages, data, and how to grow.

    `train` is the training of the grown network at the end, none by default. `model` may have
    stage sizes already, as inception_v1@3,5,2; `weights` are then those of that network.
    """

    grow: GrowConfig = field(default_factory=GrowConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=0))

    @property
    def aim(self) -> str:
        """What the run is for, in a word."""
        return "growing"
