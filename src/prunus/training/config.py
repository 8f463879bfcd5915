"""Settings of a P-phase."""

from __future__ import annotations

from typing import Literal

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
    """

    epochs: int = Field(10, ge=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distill: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(2.0, gt=0)
    clip: float = Field(5.0, ge=0)
