"""The compact form of CIFAR-10: lossless WebP strips in six .npz files, half the size."""

from __future__ import annotations

import hashlib
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from prunus.core import DataError
from prunus.data.files.cifar_pickles import Cifar
from prunus.data.memory import ImageBatch

__all__ = ["find_compact", "read_compact"]

_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PARTS = {"train": tuple(f"train_{i}.npz" for i in range(1, 6)), "test": ("test.npz",)}
_SHA256 = {  # of the decoded images (N, 32, 32, 3), and of the labels, as bytes
    "train": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    ),
    "test": (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
}


def find_compact(data_root: Path) -> Path | None:
    """Return the folder of the compact CIFAR-10, or None if a part is missing."""
    folder = data_root / "cifar10"
    parts = (*_PARTS["train"], *_PARTS["test"])
    return folder if all((folder / part).is_file() for part in parts) else None


def read_compact(folder: Path) -> Cifar:
    """Read train_1.npz … train_5.npz and test.npz, the original batches in their order.

    Each holds `data`, the bytes of WebP images joined together; `offsets`, where each begins and
    the last ends; `labels`. A WebP image is a strip, 32 pixels wide, of images stacked vertically.
    The images and labels must be bit-identical to CIFAR-10's (SHA-256). Decoding all 60 000 takes
    about eight seconds.

    Raises:
        DataError: a file cannot be read, or decodes to something else.
    """
    train, test = (_read(folder, split) for split in ("train", "test"))
    return Cifar(train=train, test=test, class_names=_CLASSES)


def _read(folder: Path, split: str) -> ImageBatch:
    """Return images uint8 (N, 3, 32, 32) and labels int64 (N,)."""
    strips, labels = [], []
    for name in _PARTS[split]:
        path = folder / name
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
                data, offsets = part["data"], part["offsets"].tolist()
                labels.append(part["labels"].astype(np.uint8))
            strips += [_decode(data[start:end]) for start, end in pairwise(offsets)]
        except Exception as error:  # zip, NumPy and Pillow each raise their own errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} cannot be read ({reason}): copy it again") from error
    images, classes = np.concatenate(strips), np.concatenate(labels)
    found = tuple(hashlib.sha256(array.data).hexdigest() for array in (images, classes))
    for what, sha, expected in zip(("images", "labels"), found, _SHA256[split], strict=True):
        if sha != expected:
            raise DataError(
                f"{folder} holds {what} for {split} with the SHA-256 {sha[:12]}…, CIFAR-10's is "
                f"{expected[:12]}…: copy the parts again"
            )
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return channels_first, torch.from_numpy(classes).long()


def _decode(code: NDArray[Any]) -> NDArray[np.uint8]:
    """Decode one strip to images (n, 32, 32, 3)."""
    with Image.open(io.BytesIO(code.tobytes())) as strip:
        return np.asarray(strip.convert("RGB")).reshape(-1, 32, 32, 3)
