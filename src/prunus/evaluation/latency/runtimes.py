"""One network on one batch as a call without arguments, for each supported runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import PrunusError, import_without_telemetry, importing

__all__ = ["RUNTIMES", "RuntimeUnavailableError", "compiled_call", "eager_call", "onnx_call"]

#: Eager PyTorch, `torch.compile` with its default backend (inductor), ONNX Runtime on the CPU.
RUNTIMES = ("eager", "compile", "onnxruntime")
#: Largest difference between a compiled and the eager network, relative to the largest output.
TOLERANCE = 1e-3


class RuntimeUnavailableError(PrunusError):
    """A runtime cannot run a network on this machine; the message gives the reason."""


def eager_call(model: nn.Module, inputs: Example) -> Callable[[], object]:
    """Return the forward pass of `model` on `inputs`, on the CPU, in eval mode."""
    network, given = model.cpu().eval(), Inputs.of(inputs).to("cpu")
    return lambda: given(network)


def compiled_call(model: nn.Module, inputs: Example) -> Callable[[], object]:
    """Compile `model` for the shapes of `inputs` and return that forward pass.

    It takes seconds to minutes. The outputs are compared with those of `model`. PyTorch caches at
    most 8 compiled networks per class; `torch.compiler.reset()` empties the cache. A ninth is an
    error here, whereas PyTorch would silently fall back to eager.

    Raises:
        RuntimeUnavailableError: it does not compile (e.g. no C++ compiler), or its outputs differ.
    """
    network, given = model.cpu().eval(), Inputs.of(inputs).to("cpu")
    compiled = torch.compile(network, dynamic=False)
    try:
        with (
            torch.inference_mode(),
            importing(),
            warnings.catch_warnings(),
            torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
        ):
            warnings.simplefilter("ignore")
            expected, found = (flatten_tensors(given(each)) for each in (network, compiled))
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
    return lambda: given(compiled)


def onnx_call(path: Path, inputs: Example) -> Callable[[], object]:
    """Return a call of the ONNX file at `path` in ONNX Runtime, with PyTorch's number of threads.

    Raises:
        RuntimeUnavailableError: ONNX Runtime cannot load or run the file.
    """
    onnxruntime = import_without_telemetry("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    tensors = Inputs.of(inputs).to("cpu").tensors
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = [given.name for given in session.get_inputs()]
        feed = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        session.run(None, feed)
    except Exception as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot run {path.name}: {str(error).splitlines()[0]}"
        ) from error
    return lambda: session.run(None, feed)
