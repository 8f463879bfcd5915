"""The networks of the literature: one family per file, readable from top to bottom.

Each file registers its networks on import, and all are imported here.
"""

from __future__ import annotations

import importlib
import pkgutil

from prunus.models.families.lenet import LeNet5, LeNet300
from prunus.models.families.resnet_cifar import ResNetCifar

__all__ = [
    "LeNet5",
    "LeNet300",
    "ResNetCifar",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
