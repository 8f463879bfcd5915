"""Write artefacts and verify that they compute the same as PyTorch."""

from prunus.export import onnx, openvino, pt2
from prunus.export.format import FORMATS, Format, require_formats
from prunus.export.gate import Parity, check_parity, export_model
from prunus.export.onnx import export_onnx
from prunus.export.weights import save_weights

__all__ = [
    "FORMATS",
    "Format",
    "Parity",
    "check_parity",
    "export_model",
    "export_onnx",
    "onnx",
    "openvino",
    "pt2",
    "require_formats",
    "save_weights",
]
