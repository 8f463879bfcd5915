"""Settings of `prunus grow`, as written to `config.yaml`."""

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
    | steps | maximum number of modules to add; null: until no gain or nothing fits |
    | budget | upper bounds of the cost (params=1M, macs=50M, bytes=4M), and the accuracy |
    | | at which to stop (accuracy>=97%); null: no bound |
    | choose | the candidate to keep: the best on validation after a short training (`accuracy`), |
    | | or the one whose last hidden layer explains most before training (`information`) |
    | patience | stop after this many steps in a row without gain |
    | min_gain | least gain of a step that counts, in accuracy or share of information, 0 to 1 |
    | preserve | whether new modules start as the identity |
    | threads | per candidate; null: cores ÷ workers. Floating-point sums, so results too, depend |
    | | on it in their last bits, but not on the number of workers |
    | images | calibration images to measure information on, evenly spread |
    | ridge | ρ of the information, in units of N |
    | base | the training of the initial network, if no weights are given |
    | candidate | the training of each candidate, or only of the one chosen by information |

    Example:
        >>> import prunus
        >>> prunus.GrowConfig(steps=4, budget={"params": "1M"}).budget
        'params=1M'
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

    `train` is the training of the grown network at the end, none by default. `model` may already
    include stage sizes, e.g. inception_v1@3,5,2; `weights` are then those of that network.
    """

    grow: GrowConfig = field(default_factory=GrowConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=0))

    @property
    def aim(self) -> str:
        """The purpose of the run in a word."""
        return "growing"
