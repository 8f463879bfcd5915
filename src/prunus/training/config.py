"""Settings of a P-phase."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT

__all__ = ["TrainConfig"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """How to train: the settings of `fit_`.

    | setting | meaning |
    |---|---|
    | epochs | passes over the training split |
    | optimizer | `sgd` (Nesterov momentum), `adam` or `adamw` |
    | momentum | of `sgd` |
    | lr | peak learning rate, reached after the warm-up |
    | warmup | share of the steps that rise linearly to `lr` |
    | schedule | from there: `cosine` to 0, `step` (times `gamma` at each of `milestones`), |
    | | `plateau` (times `gamma` where `patience` epochs brought no better training loss), |
    | | or `constant` |
    | milestones | of `step`, as shares of the epochs |
    | gamma | factor of `step` and `plateau` |
    | patience | epochs that `plateau` waits for |
    | weight_decay | L2 (sgd, adam) or decoupled (adamw) decay of weights, not of biases and norms |
    | loss | `auto`: cross-entropy where targets are labels, L1 where they are images; or named: |
    | | `cross_entropy`, `l1`, `mse` |
    | label_smoothing | of the cross-entropy |
    | distill | weight of the teacher's soft targets beside the labels, 0 to 1 |
    | temperature | of the soft targets |
    | clip | largest gradient norm, 0 for none |
    | local | weight of the local teachers, 0 for none: of what each layer leaves unexplained |
    | local_layers | modules whose inputs are taught; none named: all (see `LocalTeachers`) |
    | local_ridge | ρ of the local teachers, in units of the mean eigenvalue |
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=1)] = 10
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    loss: Literal["auto", "cross_entropy", "l1", "mse"] = "auto"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip: Annotated[float, Field(ge=0)] = 5.0
    local: Annotated[float, Field(ge=0)] = 0.0
    local_layers: tuple[str, ...] = ()
    local_ridge: Annotated[float, Field(gt=0)] = 1.0
