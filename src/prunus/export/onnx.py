"""ONNX, checked in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from prunus.batches import Example
from prunus.export.exportable import Exportable
from prunus.export.format import (
    FORMATS,
    Format,
    Runner,
    dynamic_shapes,
    one_or_all,
    program_of,
    quiet,
)
from prunus.export.gate import Parity, export_model

__all__ = ["Onnx", "export_onnx"]


class Onnx(Format):
    """One .onnx file that includes the weights, by PyTorch's exporter based on `torch.export`."""

    title = "ONNX"
    runtime = "ONNX Runtime"
    suffixes = (".onnx",)

    def check(self, network: Exportable, example: tuple[Tensor, ...]) -> None:
        """Read the network as `torch.export` does."""
        program_of(network, example)

    def write(self, network: Exportable, example: tuple[Tensor, ...], path: Path) -> None:
        """Write one .onnx file."""
        with quiet():
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                input_names=list(network.inputs),
                output_names=list(network.outputs),
                dynamic_shapes=dynamic_shapes(network),
            )
        assert program is not None
        path.write_bytes(program.model_proto.SerializeToString())

    def open(self, path: Path) -> Runner:
        """Open the file in ONNX Runtime on the CPU."""
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(*tensors: Tensor) -> Tensor | list[Tensor]:
            feed = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
            return one_or_all([torch.from_numpy(each) for each in session.run(None, feed)])

        return run


FORMATS.register("onnx")(Onnx())


def export_onnx(
    model: nn.Module, images: Example, path: Path, *, tolerance: float = 1e-4
) -> Parity:
    """Write `model` as ONNX through the gate: `export_model` with the format `onnx`."""
    return export_model(model, images, path, "onnx", tolerance=tolerance)
