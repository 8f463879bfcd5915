"""MATLAB's .mat files: version 5 to 7 by SciPy, version 7.3 by h5py if it is installed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.core import DataError, imported

__all__ = ["read_mat"]


def read_mat(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the variables `names` of a .mat file, with the shapes that MATLAB shows.

    Cell arrays of text become arrays of `str`.

    Raises:
        DataError: the file cannot be read, needs h5py, or lacks a variable.
    """
    try:
        with path.open("rb") as file:
            new = b"MATLAB 7.3" in file.read(128)
        held = _read_73(path, names) if new else _read_5(path, names)
    except DataError:
        raise
    except Exception as error:  # SciPy and h5py raise many kinds of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read ({reason}): download it again") from error
    lost = [name for name in names if name not in held]
    if lost:
        raise DataError(f"{path} holds no variable {lost[0]!r}: put the original file there")
    return held


def _read_5(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    loadmat = imported("scipy.io").loadmat  # slow to import: only when needed
    held = loadmat(path, variable_names=list(names))
    return {name: _texts(held[name]) for name in names if name in held}


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    """Return a cell array of text, object (n, m) of arrays of one text, as an array of text."""
    if array.dtype != object:
        return array
    flat = ["".join(np.asarray(cell).reshape(-1).astype(str)) for cell in array.reshape(-1)]
    return np.array(flat).reshape(array.shape)


def _read_73(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read an HDF5 file; it lists axes in reverse, text as UTF-16 codes, cells as references."""
    try:
        h5py = imported("h5py")
    except ImportError as error:
        raise DataError(
            f"{path} is a MATLAB 7.3 file, which needs the package h5py: run pip install h5py"
        ) from error
    with h5py.File(path) as file:
        held = {}
        for name in names:
            if name not in file:
                continue
            array = file[name][()].T
            if array.dtype == object:
                flat = ["".join(map(chr, file[cell][()].reshape(-1))) for cell in array.reshape(-1)]
                array = np.array(flat).reshape(array.shape)
            held[name] = array
        return held
