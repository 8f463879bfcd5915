"""Weight files: load all tensors of a network, or name the first that does not fit."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prunus.core import (
    RECORD,
    NonFiniteError,
    PrunusError,
    WeightsError,
    first_non_finite,
    require_regular,
    require_sealed,
)
from prunus.modules import rolling_back

__all__ = ["load_weights_", "read_torch"]

_NESTED = ("state_dict", "model")  # where training scripts put the tensors
_DATA_PARALLEL = "module."  # what nn.DataParallel prepends to each name


def load_weights_(model: nn.Module, path: Path, *, checked: bool = False) -> None:
    """Copy the tensors of the file `path` into `model`, all or none, whatever is raised.

    Takes .safetensors, and .pt or .pth read without running pickled code: a state dict, or a
    dict that holds one under 'state_dict' or 'model'. A prefix 'module.' on every name is
    dropped, and BatchNorm's `num_batches_tracked` may be left out. Weights in the folder of a run
    must have the SHA-256 that its journal records, unless the caller has `checked` that.

    Raises:
        RunFolderError: the file is in the folder of a run, which wrote another one.
        WeightsError: the file is missing or broken, or a tensor is missing, has another shape or
            is not in the model; names the first such tensor in the model's order.
        NonFiniteError: a parameter holds NaN or infinity, or a buffer NaN.
    """
    path = Path(path)
    if not checked:
        _require_sealed(path)
    state = _read(path)
    expected = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    if state.keys().isdisjoint(expected) and all(k.startswith(_DATA_PARALLEL) for k in state):
        state = {k.removeprefix(_DATA_PARALLEL): v for k, v in state.items()}
    _check_fit(state, expected, path)
    name = first_non_finite(model, state)
    if name is not None:
        raise NonFiniteError(
            f"{path}: tensor {name} holds NaN or infinity: the training that wrote it diverged, "
            "use an earlier checkpoint"
        )
    named = OrderedDict(state)
    # Some modules check the version that wrote them (torchvision's MNASNet), which no file has.
    named._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    with rolling_back(model) as before:
        before.keep(expected.values())
        model.load_state_dict(named, strict=False)  # strict except for num_batches_tracked


def _require_sealed(path: Path) -> None:
    """Raise if weights in the folder of a run, or in one within it, are not what it sealed."""
    for folder in (path.parent, path.parent.parent):
        if any((folder / name).exists() for name in ("config.yaml", "plan.json", RECORD)):
            require_sealed(folder, path.relative_to(folder).as_posix())
            return


def _check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    advice = "build the network these weights were saved from, with the same number of classes"
    for name, tensor in expected.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):
                continue
            raise WeightsError(
                f"{path}: tensor {name} of shape {tuple(tensor.shape)} is missing: {advice}"
            )
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: tensor {name} has shape {tuple(state[name].shape)}, "
                f"the network expects {tuple(tensor.shape)}: {advice}"
            )
        if (kind := _kind(state[name])) != "integers" and kind != _kind(tensor):
            raise WeightsError(
                f"{path}: tensor {name} has {kind}, the network expects {_kind(tensor)}: {advice}"
            )
    for name in state:
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name} is not in the network: {advice}")


def _kind(tensor: Tensor) -> str:
    """Return what a tensor holds; integers and masks are taken as any other numbers."""
    if tensor.is_complex():
        return "complex numbers"
    return "fractions" if tensor.is_floating_point() else "integers"


def read_torch(path: Path) -> Any:
    """Return what `torch.save` wrote, read without running pickled code; each part is checked.

    Raises:
        WeightsError: the file cannot be read, is damaged, holds more than tensors and plain values,
            or would take more memory than its size says.
    """
    require_regular(path, raising=WeightsError)
    again = "copy or save it again"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(part.file_size for part in archive.infolist())
                if size > path.stat().st_size:  # PyTorch compresses nothing
                    raise WeightsError(
                        f"{path} is compressed to less than its {size} bytes: {again}"
                    )
                if (part := archive.testzip()) is not None:
                    raise WeightsError(f"{path} is damaged: {part} has not its checksum: {again}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except PrunusError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is broken or holds more than tensors, and pickled code is not executed: "
            "save model.state_dict() alone"
        ) from error
    except Exception as error:  # zip, tar and legacy formats each raise their own errors
        raise WeightsError(f"{path} cannot be read by torch.load: {again}") from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no weight file at {path}: give a .safetensors, .pt or .pth file")
    require_regular(path, raising=WeightsError)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{path} is not a complete .safetensors file ({error}): copy or save it again"
            ) from error
    if path.suffix not in (".pt", ".pth"):
        raise WeightsError(
            f"{path} ends in {path.suffix!r}, expected .safetensors, .pt or .pth: save the "
            "weights in one of these formats"
        )
    return _state_dict(read_torch(path), path)


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        for key in _NESTED:
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(
            f"{path} holds {type(loaded).__name__}, expected a state dict of tensors: "
            "save model.state_dict()"
        )
    for name, value in loaded.items():
        if isinstance(value, Tensor) and (
            value.layout != torch.strided or value.is_meta or value.is_quantized
        ):
            raise WeightsError(
                f"{path}: entry {name} is a sparse, quantised or empty tensor: save the plain one"
            )
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: entry {name} is {type(value).__name__}, expected a tensor: "
                "save model.state_dict() alone"
            )
    return {str(name): value for name, value in loaded.items()}
