"""The P-phase (fine-tuning): train the parameters of a fixed structure."""

from prunus.training.config import PushConfig, TrainConfig
from prunus.training.fit import fit_
from prunus.training.local import LocalTeachers
from prunus.training.loss import distillation, task_loss
from prunus.training.push import Push

__all__ = [
    "LocalTeachers",
    "Push",
    "PushConfig",
    "TrainConfig",
    "distillation",
    "fit_",
    "task_loss",
]
