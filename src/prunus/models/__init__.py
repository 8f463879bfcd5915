"""Networks by name: one family per file, external and grown networks, weight files."""

from prunus.models.build import build_model
from prunus.models.families import LeNet5, LeNet300, ResNetCifar
from prunus.models.growth import Growing, grow_, grow_to_, sized_name, split_sizes, stage_sizes
from prunus.models.registry import MODELS, ModelEntry, register_model, register_restorer
from prunus.models.source_file import source_file_of, split_source
from prunus.models.usual import usual_input
from prunus.models.weights import load_weights_, read_torch

__all__ = [
    "MODELS",
    "Growing",
    "LeNet5",
    "LeNet300",
    "ModelEntry",
    "ResNetCifar",
    "build_model",
    "grow_",
    "grow_to_",
    "load_weights_",
    "read_torch",
    "register_model",
    "register_restorer",
    "sized_name",
    "source_file_of",
    "split_sizes",
    "split_source",
    "stage_sizes",
    "usual_input",
]
