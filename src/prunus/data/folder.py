"""A folder of images, one subfolder a class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from prunus.core import derive_seed
from prunus.core.errors import DataError
from prunus.data.image_files import Files, ImageFiles, find_images, find_layout, verify_images
from prunus.data.registry import DATASETS, DataSettings
from prunus.data.splits import DataSplits, make_splits, split_stratified

__all__ = ["load_folder"]

_SHARE = 0.15  # of validation, and of test where PATH does not bring its own
_FEW = 2_000  # images up to which workers cost more than they save
_VERIFIED = 20_000  # images up to which every file is checked before training starts


@DATASETS.register("folder")
def load_folder(settings: DataSettings, num_workers: int | None = None) -> DataSplits:
    """Load the images under the folder `settings.argument`, one subfolder a class.

    70 % train, 15 % validation, 15 % test, stratified: the test images are the same for every
    seed, the seed splits the others. Where the folder holds `train` and `test` (or `val`)
    with the classes inside, the latter is the test split and 15 % of the former the validation;
    where it holds all three, each is what its name says and the seed splits nothing.

    Images are shown at 3×224×224 unless asked otherwise: shorter side resized to max(H, W),
    centre cropped, normalised by ImageNet's mean and deviation. Augmented: a random crop of 50
    to 100 % of the area, resized, and a random flip. `num_workers` is 0 for up to 2 000 images
    and otherwise up to 4; augmentation is repeatable for the same number of workers.

    Raises:
        DataError: the folder is missing or empty, has one class or classes with too few images,
            its splits have different classes, or an image cannot be read.
    """
    input_shape = settings.input_shape or (3, 224, 224)
    if input_shape[0] not in (1, 3):
        raise DataError(
            f"folders give images of 1 or 3 channels, {input_shape[0]} were asked for: "
            "choose one of these in input_shape"
        )
    classes, parts = _split(settings)
    count = sum(len(files.paths) for files in parts.values())
    if count <= _VERIFIED:
        for files in parts.values():
            verify_images(files.paths)
    if num_workers is None:
        num_workers = 0 if count <= _FEW else min(4, _cores())

    def images(part: str, augment: bool = False) -> Dataset[Any]:
        return ImageFiles(parts[part], input_shape, augment=augment)

    return make_splits(
        name=f"folder:{settings.argument}",
        datasets={
            "train": images("train", settings.augment),
            "calibration": images("train"),
            "validation": images("validation"),
            "test": images("test"),
        },
        class_names=classes,
        input_shape=input_shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=num_workers,
    )


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _split(settings: DataSettings) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return the class names and the files of 'train', 'validation' and 'test'."""
    seed = derive_seed(settings.seed, "folder", "validation")
    layout = find_layout(Path(settings.argument).expanduser())
    if "test" not in layout:
        classes, files = find_images(layout["train"], least=3)
        rest, test = _part(files, len(files.paths), derive_seed(0, "folder", "test"))
        train, validation = _part(rest, len(files.paths), seed)
        return classes, {"train": train, "validation": validation, "test": test}
    classes, files = find_images(layout["train"], least=1 if "validation" in layout else 2)
    parts = {"test": _same_classes(layout["test"], classes)}
    if "validation" in layout:
        parts |= {"train": files, "validation": _same_classes(layout["validation"], classes)}
    else:
        parts["train"], parts["validation"] = _part(files, len(files.paths), seed)
    return classes, parts


def _part(files: Files, total: int, seed: int) -> tuple[Files, Files]:
    """Take `_SHARE` of `total` images out of `files`, at least one of each class."""
    size = max(round(_SHARE * total), len(torch.unique(files.labels)))
    rest, part = split_stratified(files.labels, size, seed)
    return files.select(rest), files.select(part)


def _same_classes(root: Path, expected: tuple[str, ...]) -> Files:
    classes, files = find_images(root, least=1)
    odd = sorted(set(classes) ^ set(expected))
    if odd:
        where = "only there" if odd[0] in classes else "missing there"
        raise DataError(
            f"{root} has other classes than the training split, {odd[0]!r} is {where}: "
            "give every split the same class folders"
        )
    return files
