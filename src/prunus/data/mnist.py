"""MNIST: 60 000 + 10 000 handwritten digits, read from idx files, downloaded where missing."""

from __future__ import annotations

from pathlib import Path

from prunus.core.errors import DataError
from prunus.data.idx import read_idx
from prunus.data.memory import Batch, split_in_memory
from prunus.data.registry import DATASETS, DataSettings
from prunus.data.splits import DataSplits

__all__ = ["load_mnist"]

_MEAN, _STD = 0.1307, 0.3081  # of the training pixels, the usual constants
_STEMS = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
_FILES = tuple(f"{stem}-{kind}" for stem in _STEMS.values() for kind in _KINDS)


@DATASETS.register("mnist")
def load_mnist(settings: DataSettings) -> DataSplits:
    """Load MNIST from `data_root`/MNIST/raw, the four idx files packed (.gz) or unpacked.

    Where files are missing, torchvision downloads them. 5 000 of the 60 000 training images, a
    twelfth, are the validation, stratified by the seed; the test images are the published ones.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.

    Raises:
        DataError: a file is broken, or missing and not to be downloaded.
    """
    folder = settings.data_root / "MNIST" / "raw"
    missing = [name for name in _FILES if _find(folder, name) is None]
    if missing:
        _download(settings.data_root, missing)
    rest, test = _read(folder, "train"), _read(folder, "test")
    return split_in_memory(
        settings,
        name="mnist",
        rest=rest,
        test=test,
        validation_size=len(rest[1]) // 12,
        scale=255,
        mean=_MEAN,
        std=_STD,
        default_shape=(1, 28, 28),
    )


def _find(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: Path, split: str) -> Batch:
    """Return images uint8 (N, 28, 28) and labels int64 (N,)."""
    image_path, label_path = (_find(folder, f"{_STEMS[split]}-{kind}") for kind in _KINDS)
    if image_path is None or label_path is None:
        raise _missing(folder, "the download left them out")
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
    return images, labels


def _download(root: Path, missing: list[str]) -> None:
    from torchvision.datasets import MNIST  # noqa: PLC0415 - heavy: only where asked for

    try:
        MNIST(root, download=True)
    except Exception as error:  # no network, no mirror, or a folder that is read-only
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _missing(root / "MNIST" / "raw", reason.rstrip(".: "), missing) from error


def _missing(folder: Path, reason: str, names: list[str] | None = None) -> DataError:
    listed = ", ".join(names or _FILES)
    return DataError(
        f"MNIST is not whole in {folder} and could not be downloaded ({reason}): "
        f"put {listed} there, packed (.gz) or not, or name another data_root"
    )
