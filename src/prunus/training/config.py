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
    | optimizer | `sgd` (Nesterov momentum 0.9) or `adamw` |
    | lr | peak learning rate; a cosine takes it to 0 after a warm-up |
    | warmup | share of the steps that rise linearly to `lr` |
    | weight_decay | L2 (sgd) or decoupled (adamw) decay of weights, not of biases and norms |
    | label_smoothing | of the cross-entropy |
    | distill | weight of the teacher's soft targets beside the labels, 0 to 1 |
    | temperature | of the soft targets |
    | clip | largest gradient norm, 0 for none |
    | local | weight of the local teachers, 0 for none: of what each layer leaves unexplained |
    | local_layers | modules whose inputs are taught; none named: all (see `LocalTeachers`) |
    | local_ridge | ρ of the local teachers, in units of the mean eigenvalue |
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 2e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 2.0
    clip: Annotated[float, Field(ge=0)] = 5.0
    local: Annotated[float, Field(ge=0)] = 0.0
    local_layers: tuple[str, ...] = ()
    local_ridge: Annotated[float, Field(gt=0)] = 1.0
