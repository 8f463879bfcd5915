"""Write artefacts and verify that they compute the same as PyTorch.

The room is also the verb: `prunus.export(model, images, path)` is `prunus.export.export`, for the
package has one attribute of that name.

Example:
    >>> import tempfile, torch, prunus
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     prunus.export(net, torch.randn(3, 1, 2, 2), f"{folder}/model.pt2").images
    3
"""

import sys
from types import ModuleType

from prunus.export import onnx, openvino, pt2
from prunus.export.format import FORMATS, Format, require_formats
from prunus.export.gate import Parity, check_exportable, check_parity, export, export_model
from prunus.export.onnx import export_onnx
from prunus.export.weights import save_weights

__all__ = [
    "FORMATS",
    "Format",
    "Parity",
    "check_exportable",
    "check_parity",
    "export",
    "export_model",
    "export_onnx",
    "onnx",
    "openvino",
    "pt2",
    "require_formats",
    "save_weights",
]


class _Room(ModuleType):
    """This module, which can be called."""

    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _Room
