"""SVHN: 73 257 + 26 032 colour images of house numbers' digits, cropped to 32×32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from prunus.core import DataError
from prunus.data.augment import shift_images
from prunus.data.download import download
from prunus.data.files import read_mat
from prunus.data.memory import ImageBatch, Scaling, split_in_memory
from prunus.data.registry import DataSettings, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_svhn"]

_SHAPE = (3, 32, 32)
_FILES = {split: f"{split}_32x32.mat" for split in ("train", "test")}


def _find(data_root: Path, argument: str) -> Path | None:
    whole = all((data_root / name).is_file() for name in _FILES.values())
    return data_root if whole else None


@register_data(
    "svhn",
    source="Netzer et al.: Reading digits in natural images with unsupervised feature learning, "
    "2011",
    terms="non-commercial use only",
    input_shape=_SHAPE,
    num_classes=10,
    sizes={"train": 73_257, "test": 26_032, "extra": 531_131},
    find=_find,
    get="https://ufldl.stanford.edu/housenumbers",
)
def load_svhn(settings: DataSettings) -> DataSplits:
    """Load the Street View House Numbers, format 2, from `data_root`/{train,test}_32x32.mat.

    Missing files are downloaded if permitted (`load_data`). Test: the published 26 032. Validation:
    6 000 of the 73 257 training images, stratified by the seed; the 531 131 easier ones of
    `extra` are not read. Class "0" has the label 0 (10 in the files). Augmented: padded by 4
    zeros on every side and cropped at random to 32×32, not flipped: digits are not symmetric.
    ([Dense-xUnit, section 4.1] trains on SVHN without augmentation.) Normalised by mean (.4377,
    .4438, .4728) and deviation (.1980, .2010, .1970) of the training pixels.

    Source: [SVHN].

    Raises:
        DataError: a file is broken, or missing and cannot be downloaded.
    """
    root = settings.data_root
    absent = [name for name in _FILES.values() if not (root / name).is_file()]
    if absent:
        download(
            "svhn",
            root,
            " and ".join(absent),
            lambda datasets: [datasets.SVHN(root, split, download=True) for split in _FILES],
        )
    rest, test = (_read(root / name) for name in _FILES.values())
    _, H, W = settings.input_shape or _SHAPE
    return split_in_memory(
        settings,
        name="svhn",
        rest=rest,
        test=test,
        validation_size=round(len(rest[1]) * 6_000 / 73_257),
        class_names=tuple("0123456789"),
        scaling=Scaling(mean=(0.4377, 0.4438, 0.4728), std=(0.198, 0.201, 0.197)),
        default_shape=_SHAPE,
        augment=partial(shift_images, reach=(round(4 * H / 32), round(4 * W / 32))),
    )


def _read(path: Path) -> ImageBatch:
    """Return images uint8 (N, 3, 32, 32) and labels int64 (N,)."""
    held = read_mat(path, ("X", "y"))
    pixels, numbers = held["X"], held["y"].reshape(-1)  # (32, 32, 3, N), (N,)
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != "uint8":
        raise DataError(
            f"{path} holds X of {pixels.dtype} {pixels.shape}, expected uint8 (32, 32, 3, N): "
            "put the original file there"
        )
    if len(numbers) != pixels.shape[3] or not set(numbers.tolist()) <= set(range(1, 11)):
        raise DataError(
            f"{path} holds {len(numbers)} labels for {pixels.shape[3]} images, expected equally "
            "many, from 1 to 10: put the original file there"
        )
    images = torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy())
    return images, torch.from_numpy(numbers.astype("int64")) % 10
