"""Settings of training and fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prunus.core import STRICT

__all__ = ["PushConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PushConfig:
    """How to push class separation into few neurons of the last hidden layer: settings of `Push`.

    | setting | meaning |
    |---|---|
    | form | `lda`: N/Σv [Tian, eq. 4.6], or `di`: 1 − DI/tr(YYᵀ), which is bounded |
    | lda | γ, weight of this term |
    | cov | λ, weight of ℓ_cov (eq. 4.7), in units of the features' variance |
    | align | β, weight of ℓ_align (eq. 4.9) |
    | ridge | c on Σ_w in units of its mean eigenvalue, see `solve_within`; ρ for `di` |
    | ramp | share of the training steps over which the weights rise from 0 |
    | layer | module whose input is pushed; null: the last linear layer |
    | align_limit | width above which ℓ_align is omitted |
    | classes | classes per batch, drawn at random; null: as many as fit |
    | per_class | minimum images per class in a batch |

    A term with weight 0 is not computed. The thesis gives no weights; these were determined on
    digits and MNIST (docs/results.md).

    Example:
        >>> import prunus
        >>> prunus.TrainConfig(push=prunus.PushConfig(form="di")).push.lda
        1.0
    """

    form: Literal["lda", "di"] = "lda"
    lda: Annotated[float, Field(ge=0)] = 1.0
    cov: Annotated[float, Field(ge=0)] = 1.0
    align: Annotated[float, Field(ge=0)] = 0.3
    ridge: Annotated[float, Field(gt=0)] = 1.0
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.1
    layer: str | None = None
    align_limit: Annotated[int, Field(ge=1)] = 1024
    classes: Annotated[int | None, Field(ge=2)] = None
    per_class: Annotated[int, Field(ge=2)] = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """How to train: the settings of `fit_`.

    | setting | meaning |
    |---|---|
    | epochs | passes over the training split |
    | optimizer | `sgd` (Nesterov momentum), `adam` or `adamw` |
    | momentum | of `sgd` |
    | lr | peak learning rate, reached after the warm-up |
    | warmup | share of the steps with a linear rise to `lr` |
    | schedule | after the warm-up: `cosine` to 0, `step` (times `gamma` at each of `milestones`), |
    | | `plateau` (times `gamma` after `patience` epochs without better training loss), |
    | | or `constant` |
    | milestones | of `step`, as shares of the epochs |
    | gamma | factor of `step` and `plateau` |
    | patience | number of epochs that `plateau` waits |
    | weight_decay | L2 (sgd, adam) or decoupled (adamw) decay of weights, not of biases and norms |
    | loss | `auto`: cross-entropy for labels, L1 for image targets; or one of `cross_entropy`, |
    | | `l1`, `mse` |
    | label_smoothing | of the cross-entropy |
    | distill | weight of the teacher's soft targets relative to the labels, 0 to 1 |
    | temperature | of the soft targets |
    | clip | maximum gradient norm, 0 for none |
    | local | weight of the local teachers (unexplained share of each layer), 0 for none |
    | local_layers | modules whose inputs are taught; empty: all (see `LocalTeachers`) |
    | local_ridge | ρ of the local teachers, in units of the mean eigenvalue |
    | push | the deep LDA push at the last hidden layer (see `PushConfig`); null for none |

    Example:
        >>> import prunus
        >>> prunus.TrainConfig(epochs=5, lr=1e-3).optimizer
        'adamw'
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
    push: PushConfig | None = None
