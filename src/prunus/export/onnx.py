"""ONNX with a gate: what ONNX Runtime computes must be what PyTorch computes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from prunus.core.errors import ExportError
from prunus.core.files import writing_whole
from prunus.evaluation import primary

__all__ = ["Parity", "export_onnx"]


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's outputs are from PyTorch's, over `images` images."""

    largest_difference: float
    tolerance: float
    images: int


class _Primary(nn.Module):
    """The main output alone, in a module that can be exported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return primary(self.model(images))


def export_onnx(model: nn.Module, images: Tensor, path: Path, *, tolerance: float = 1e-4) -> Parity:
    """Write `model` as ONNX with a dynamic batch axis and compare it on `images`.

    The tolerance is on |PyTorch − ONNX Runtime|, relative to the largest output where that is
    above 1. The file appears only if the comparison holds, also at batch 1.

    Raises:
        ExportError: the network cannot be exported, or the outputs differ; no file is left.
    """
    network = _Primary(copy.deepcopy(model).cpu().float().eval())
    images = images.detach().cpu().float()
    example = torch.cat([images, images])[: max(2, len(images))]  # batch 1 would be specialised
    with writing_whole(path) as scratch:
        try:
            with _quiet():
                program = torch.onnx.export(
                    network,
                    (example,),
                    dynamo=True,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                )
                assert program is not None
                scratch.write_bytes(program.model_proto.SerializeToString())
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise ExportError(
                f"{type(model).__name__} cannot be exported to ONNX: {type(error).__name__}: "
                f"{reason[0] if reason else 'no text'}"
            ) from error
        return _compare(network, images, scratch, tolerance)


def _compare(network: nn.Module, images: Tensor, path: Path, tolerance: float) -> Parity:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in (images, images[:1]):
        with torch.no_grad():
            expected = network(batch)
        (found,) = session.run(None, {"images": batch.numpy()})
        largest = max(largest, float((expected - torch.from_numpy(found)).abs().max()))
        limit = tolerance * max(1.0, float(expected.abs().max()))
        if not largest <= limit:
            raise ExportError(
                f"ONNX Runtime differs from PyTorch by {largest:.2g} on {len(batch)} images, more "
                f"than {limit:.2g}: the ONNX file was not written"
            )
    return Parity(largest, tolerance, len(images))


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the exporter's progress, log lines and deprecation notices off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
