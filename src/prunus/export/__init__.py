"""Write artefacts and prove that they compute the same."""

from prunus.export.onnx import Parity, export_onnx
from prunus.export.weights import save_weights

__all__ = ["Parity", "export_onnx", "save_weights"]
