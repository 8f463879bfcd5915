"""ONNX, checked in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from prunus.export.format import FORMATS, INPUT, OUTPUT, Format, Runner, quiet
from prunus.export.gate import Parity, export_model

__all__ = ["Onnx", "export_onnx"]


class Onnx(Format):
    """One .onnx file that includes the weights, by PyTorch's exporter based on `torch.export`."""

    title = "ONNX"
    runtime = "ONNX Runtime"
    suffixes = (".onnx",)

    def write(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """Write one .onnx file."""
        with quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            )
        assert program is not None
        path.write_bytes(program.model_proto.SerializeToString())

    def open(self, path: Path) -> Runner:
        """Open the file in ONNX Runtime on the CPU."""
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


FORMATS.register("onnx")(Onnx())


def export_onnx(model: nn.Module, images: Tensor, path: Path, *, tolerance: float = 1e-4) -> Parity:
    """Write `model` as ONNX through the gate: `export_model` with the format `onnx`."""
    return export_model(model, images, path, "onnx", tolerance=tolerance)
