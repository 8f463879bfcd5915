"""One network on one batch as a call without arguments, for each supported runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.batches import flatten_tensors
from prunus.core import PrunusError

__all__ = ["RUNTIMES", "RuntimeUnavailableError", "compiled_call", "eager_call", "onnx_call"]

#: Eager PyTorch, `torch.compile` with its default backend (inductor), ONNX Runtime on the CPU.
RUNTIMES = ("eager", "compile", "onnxruntime")
#: Largest difference between a compiled and the eager network, relative to the largest output.
TOLERANCE = 1e-3


class RuntimeUnavailableError(PrunusError):
    """A runtime cannot run a network on this machine; the message gives the reason."""


def eager_call(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return the forward pass of `model` on `images`, on the CPU, in eval mode."""
    network, images = model.cpu().eval(), images.cpu()
    return lambda: network(images)


def compiled_call(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Compile `model` for the shape of `images` and return that forward pass.

    It takes seconds to minutes. The outputs are compared with those of `model`. PyTorch caches at
    most 8 compiled networks per class; `torch.compiler.reset()` empties the cache. A ninth is an
    error here, whereas PyTorch would silently fall back to eager.

    Raises:
        RuntimeUnavailableError: it does not compile (e.g. no C++ compiler), or its outputs differ.
    """
    network, images = model.cpu().eval(), images.cpu()
    compiled = torch.compile(network, dynamic=False)
    try:
        with (
            torch.inference_mode(),
            warnings.catch_warnings(),
            torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
        ):
            warnings.simplefilter("ignore")
            expected, found = (flatten_tensors(each(images)) for each in (network, compiled))
    except Exception as error:
        text = " ".join(str(error).strip().partition("\n\n")[0].split())  # drop the advice after it
        raise RuntimeUnavailableError(
            f"torch.compile fails on {type(model).__name__}: {type(error).__name__}: {text[:300]}"
        ) from error
    for one, other in zip(expected, found, strict=True):
        if not float((one - other).abs().max()) <= TOLERANCE * float(one.abs().max()):
            raise RuntimeUnavailableError(
                f"torch.compile changes the outputs of {type(model).__name__}"
            )
    return lambda: compiled(images)


def onnx_call(path: Path, images: Tensor) -> Callable[[], object]:
    """Return a call of the ONNX file at `path` in ONNX Runtime, with PyTorch's number of threads.

    Raises:
        RuntimeUnavailableError: ONNX Runtime cannot load or run the file.
    """
    import onnxruntime  # noqa: PLC0415 - a plan has no use for it, and imports this room

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    feed = images.cpu().numpy()
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (given,) = session.get_inputs()
        session.run(None, {given.name: feed})
    except Exception as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot run {path.name}: {str(error).splitlines()[0]}"
        ) from error
    return lambda: session.run(None, {given.name: feed})
