"""ONNX, checked in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import Example
from prunus.core import import_without_telemetry
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
        """Write one .onnx file, the same on every machine."""
        import_without_telemetry("onnxruntime")  # the exporter may import it for a pass of its own
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
        content = program.model_proto
        _drop_metadata_(content)
        path.write_bytes(content.SerializeToString())

    def open(self, path: Path) -> Runner:
        """Open the file in ONNX Runtime on the CPU."""
        onnxruntime = import_without_telemetry("onnxruntime")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(*tensors: Tensor) -> Tensor | list[Tensor]:
            feed = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
            return one_or_all([torch.from_numpy(each) for each in session.run(None, feed)])

        return run


#: Metadata of the exporter that are kept: the module that each node comes from.
_KEPT = ("pkg.torch.onnx.name_scopes",)


def _drop_metadata_(message: Any) -> None:
    """Remove comments and metadata from a part of an ONNX file and all parts in it.

    PyTorch's exporter writes for each node the stack of calls that led to it, with the absolute
    paths of this machine and lines of the network's source: whoever gets the file would read them.
    """
    for field, value in message.ListFields():
        if field.name == "doc_string":
            message.ClearField(field.name)
        elif field.name == "metadata_props":
            kept = {entry.key: entry.value for entry in value if entry.key in _KEPT}
            message.ClearField(field.name)
            for key, text in kept.items():
                message.metadata_props.add(key=key, value=text)
        elif field.message_type is not None:
            for part in value if isinstance(value, Sequence) else (value,):
                _drop_metadata_(part)


FORMATS.register("onnx")(Onnx())


def export_onnx(
    model: nn.Module, images: Example, path: Path, *, tolerance: float = 1e-4
) -> Parity:
    """Write `model` as ONNX through the gate: `export_model` with the format `onnx`."""
    return export_model(model, images, path, "onnx", tolerance=tolerance)
