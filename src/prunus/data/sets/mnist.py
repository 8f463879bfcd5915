"""MNIST: 60 000 + 10 000 handwritten digits, read from idx files, downloaded if asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prunus.core import DataError
from prunus.data.augment import shift_images
from prunus.data.download import download
from prunus.data.files import read_idx
from prunus.data.memory import ImageBatch, Scaling, split_in_memory
from prunus.data.registry import DataSettings, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_mnist"]

_STEMS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_FILES = tuple(f"{stem}-{kind}" for stem in _STEMS.values() for kind in _KINDS)


def _find(data_root: Path, argument: str) -> Path | None:
    folder = data_root / "MNIST" / "raw"
    return None if any(_path(folder, name) is None for name in _FILES) else folder


@register_data(
    "mnist",
    source="LeCun, Cortes, Burges: The MNIST database of handwritten digits, 1998",
    terms="none stated; often given as CC BY-SA 3.0",
    input_shape=(1, 28, 28),
    num_classes=10,
    sizes={"train": 60_000, "test": 10_000},
    find=_find,
    place="MNIST/raw",
    get="https://ossci-datasets.s3.amazonaws.com/mnist",
)
def load_mnist(settings: DataSettings) -> DataSplits:
    """Load MNIST from `data_root`/MNIST/raw, the four idx files compressed (.gz) or not.

    Missing files are downloaded if permitted (`load_data`). 5 000 of the 60 000 training images, a
    twelfth, are the validation, stratified by the seed; the test images are the published ones.

    Source: [MNIST].

    Raises:
        DataError: a file is broken, or missing and cannot be downloaded.
    """
    folder = settings.data_root / "MNIST" / "raw"
    absent = [name for name in _FILES if _path(folder, name) is None]
    if absent:
        files = f"{', '.join(absent)} (packed, .gz, or not)"
        download(
            "mnist",
            settings.data_root,
            files,
            lambda datasets: datasets.MNIST(settings.data_root, download=True),
        )
    rest, test = _read(folder, "train"), _read(folder, "test")
    return split_in_memory(
        settings,
        name="mnist",
        rest=rest,
        test=test,
        validation_size=len(rest[1]) // 12,
        class_names=tuple("0123456789"),
        scaling=Scaling(mean=(0.1307,), std=(0.3081,)),  # the usual values of the training pixels
        default_shape=(1, 28, 28),
        augment=partial(shift_images, reach=2),
    )


def _path(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: Path, split: str) -> ImageBatch:
    """Return images uint8 (N, 1, 28, 28) and labels int64 (N,)."""
    image_path, label_path = (
        _path(folder, f"{_STEMS[split]}-{kind}") or folder / kind for kind in _KINDS
    )
    images, labels = read_idx(image_path, dimensions=3), read_idx(label_path, dimensions=1).long()
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"{image_path} holds images of {images.shape[1]}×{images.shape[2]}, MNIST's are "
            "28×28: put the original file there"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{image_path} holds {len(images)} images but {label_path.name} {len(labels)} labels: "
            "put the original files there"
        )
    if len(labels) == 0 or int(labels.max()) > 9:
        raise DataError(f"{label_path} holds no labels 0 to 9: put the original file there")
    return images.unsqueeze(1), labels
