"""OpenVINO's intermediate representation, checked in OpenVINO's CPU runtime."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunus.core import ConfigError, import_without_telemetry
from prunus.export.exportable import Exportable
from prunus.export.format import FORMATS, Format, Runner, one_or_all, program_of, quiet

__all__ = ["OpenVino"]


class OpenVino(Format):
    """A .xml file with the graph and a .bin file with its float32 weights, converted from ONNX."""

    title = "OpenVINO IR"
    runtime = "OpenVINO"
    suffixes = (".xml", ".bin")

    def require(self) -> None:
        """Raise `ConfigError` where the package is not installed."""
        if "openvino" not in sys.modules and importlib.util.find_spec("openvino") is None:
            raise ConfigError(
                "the export format 'openvino' needs the package openvino, which is not "
                "installed: pip install openvino"
            )

    def check(self, network: Exportable, example: tuple[Tensor, ...]) -> None:
        """Read the network as `torch.export` does."""
        program_of(network, example)

    def write(self, network: Exportable, example: tuple[Tensor, ...], path: Path) -> None:
        """Write the .xml file and, next to it, the .bin file."""
        source = path.with_suffix(".onnx")
        FORMATS["onnx"].write(network, example, source)
        openvino = import_without_telemetry("openvino")
        with quiet():
            model = _core().read_model(source)
            openvino.save_model(model, path, compress_to_fp16=False)  # half floats by default
        source.unlink()

    def open(self, path: Path) -> Runner:
        """Compile the network for the CPU.

        In float32: on CPUs with bfloat16 support OpenVINO uses that by default, with differences
        of 10⁻³.
        """
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = _core().compile_model(path, "CPU", settings)
        names = [given.any_name for given in compiled.inputs]

        def run(*tensors: Tensor) -> Tensor | list[Tensor]:
            found = compiled({name: t.numpy() for name, t in zip(names, tensors, strict=True)})
            return one_or_all([torch.from_numpy(found[p].copy()) for p in compiled.outputs])

        return run


@functools.cache
def _core() -> Any:
    """Return the one `openvino.Core` of this process, which is never destroyed.

    A Core replaces the thread's stack for signal handlers and, when destroyed, restores the one it
    found. If two are destroyed in the order of creation, the second restores memory that the first
    has freed, and the next signal with a handler (SIGCHLD, if a DataLoader has workers) kills the
    process silently.
    """
    return import_without_telemetry("openvino").Core()


FORMATS.register("openvino")(OpenVino())
