"""The published files of CIFAR-10 and CIFAR-100: pickled dictionaries of arrays and lists."""

from __future__ import annotations

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.core import DataError
from prunus.data.memory import ImageBatch

__all__ = ["Cifar", "find_pickles", "read_pickles"]


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of both parts, and the names of classes."""

    train: ImageBatch
    test: ImageBatch
    class_names: tuple[str, ...]
    parents: tuple[int, ...] | None = None
    parent_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Files:
    """The folder, its files, and under which keys they hold labels, with how many of each kind."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: dict[str, int]
    names: tuple[str, ...]


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_FILES = {
    10: _Files(
        "cifar-10-batches-py", _BATCHES, ("test_batch",), "batches.meta", {"labels": 10},
        ("label_names",),
    ),
    100: _Files(
        "cifar-100-python", ("train",), ("test",), "meta",
        {"fine_labels": 100, "coarse_labels": 20}, ("fine_label_names", "coarse_label_names"),
    ),
}  # fmt: skip


def find_pickles(data_root: Path, classes: int) -> Path | None:
    """Return the folder of the published files, or None if one of them is missing."""
    files = _FILES[classes]
    folder = data_root / files.folder
    needed = (*files.train, *files.test, files.meta)
    return folder if all((folder / name).is_file() for name in needed) else None


def read_pickles(folder: Path, classes: int) -> Cifar:
    """Read the "python version" of CIFAR with 10 or 100 `classes`.

    Each file is a pickled dictionary: `data` is uint8 (N, 3072), the red, green and blue planes;
    `labels`, or `fine_labels` and `coarse_labels`, are N numbers. Nothing but arrays, numbers and
    text is unpickled.

    Raises:
        DataError: a file cannot be read, or has unexpected content.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
    """
    files = _FILES[classes]
    images, *labels = _read(folder, files.train, files.labels)
    test_images, test_labels = _read(folder, files.test, files.labels)[:2]
    meta = _unpickle(folder / files.meta)
    names = []
    for key, count in zip(files.names, files.labels.values(), strict=True):
        found = meta.get(key, ())
        if len(found) != count:
            raise _odd(folder / files.meta, f"{len(found)} {key}", f"{count}")
        names.append(tuple(map(str, found)))
    coarse = _parents(*labels, path=folder / files.train[0]) if len(labels) > 1 else None
    return Cifar(
        train=(images, labels[0]),
        test=(test_images, test_labels),
        class_names=names[0],
        parents=coarse,
        parent_names=names[1] if coarse else (),
    )


def _read(folder: Path, names: tuple[str, ...], labels: dict[str, int]) -> list[Tensor]:
    """Return the images of all files, uint8 (N, 3, 32, 32), and each kind of labels, int64 (N,)."""
    parts = []
    for name in names:
        held = _unpickle(folder / name)
        data = held.get("data")
        if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2):
            raise _odd(folder / name, "no image bytes", "data, uint8 (N, 3072)")
        if data.shape[1] != 3072:
            raise _odd(folder / name, f"images of {data.shape[1]} bytes", "3072")
        part = [torch.from_numpy(data.copy()).view(-1, 3, 32, 32)]
        for key, kinds in labels.items():
            numbers = torch.tensor(held.get(key, ()), dtype=torch.int64)
            if len(numbers) != len(data) or not len(data):
                raise _odd(folder / name, f"{len(numbers)} {key}", f"one for each of {len(data)}")
            if int(numbers.min()) < 0 or int(numbers.max()) >= kinds:
                raise _odd(folder / name, f"{key} up to {int(numbers.max())}", f"0 to {kinds - 1}")
            part.append(numbers)
        parts.append(part)
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _parents(fine: Tensor, coarse: Tensor, *, path: Path) -> tuple[int, ...]:
    """Return the coarse class of each fine class, according to the labels of the images."""
    parents = torch.full((100,), -1).scatter_(0, fine, coarse)
    if not torch.equal(parents[fine], coarse):
        raise _odd(path, "fine classes with two coarse ones", "one each")
    if int(parents.min()) < 0:
        raise _odd(path, f"no image of class {int(parents.argmin())}", "images of all 100")
    return tuple(parents.tolist())


def _odd(path: Path, found: str, expected: str) -> DataError:
    return DataError(f"{path} holds {found}, expected {expected}: put the original file there")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            held = _Arrays(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise almost any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read ({reason}): download it again") from error
    if not isinstance(held, dict):
        raise _odd(path, f"a {type(held).__name__}", "a dictionary")
    return held


def _dtype(kind: str, align: int = 0, copy: int = 1) -> np.dtype[Any]:
    """Make a dtype as Python 2 pickled it, with numbers where NumPy now expects booleans."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


_RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]  # NumPy's own, wherever this version defines it
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Arrays(pickle.Unpickler):
    """Unpickles arrays, lists, dictionaries, numbers and text, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not data")
        return _ALLOWED[module, name]
