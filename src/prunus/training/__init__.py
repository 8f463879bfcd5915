"""The P-phase: train the parameters of a fixed structure."""

from prunus.training.config import TrainConfig
from prunus.training.fit import fit_
from prunus.training.local import LocalTeachers
from prunus.training.loss import distillation, task_loss

__all__ = ["LocalTeachers", "TrainConfig", "distillation", "fit_", "task_loss"]
