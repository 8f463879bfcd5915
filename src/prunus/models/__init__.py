"""Networks by name: one family a file, external ones by spec, weights that must fit."""

from prunus.models.build import build_model
from prunus.models.lenet import LeNet5, LeNet300
from prunus.models.registry import MODELS
from prunus.models.resnet_cifar import ResNetCifar
from prunus.models.usual import usual_input
from prunus.models.weights import load_weights_

__all__ = [
    "MODELS",
    "LeNet5",
    "LeNet300",
    "ResNetCifar",
    "build_model",
    "load_weights_",
    "usual_input",
]
