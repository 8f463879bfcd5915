"""Loaders for image files on disk that are already split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from prunus.core import DataError, usable_cores
from prunus.data.files import Files, ImageFiles, Recipe, verify_images
from prunus.data.registry import DataSettings
from prunus.data.splits import DataSplits, make_splits

__all__ = ["split_files"]

_FEW = 2_000  # images up to which workers are not worth their overhead
_VERIFIED = 20_000  # images up to which every file is checked before training


def split_files(
    settings: DataSettings,
    *,
    name: str,
    parts: Mapping[str, Files],
    class_names: tuple[str, ...],
    recipe: Recipe,
    num_workers: int | None = None,
) -> DataSplits:
    """Wrap the files of 'train', 'validation' and 'test' into loaders, at 3×224×224 by default.

    `num_workers` is 0 for up to 2 000 images and otherwise up to 4. For up to 20 000 images, the
    headers and sizes are checked beforehand.

    Raises:
        DataError: an image cannot be read, or `input_shape` has other than 1 or 3 channels.
    """
    input_shape = settings.input_shape or (3, 224, 224)
    if input_shape[0] not in (1, 3):
        raise DataError(
            f"image files have 1 or 3 channels, {input_shape[0]} were requested: set 1 or 3 in "
            "input_shape"
        )
    count = sum(len(files.paths) for files in parts.values())
    if count <= _VERIFIED:
        side = recipe.side(input_shape, augment=False)
        for files in parts.values():
            verify_images(files.paths, side)
    if num_workers is None:
        num_workers = 0 if count <= _FEW else min(4, usable_cores())

    def images(part: str, augment: bool = False) -> Dataset[Any]:
        return ImageFiles(parts[part], input_shape, augment=augment, recipe=recipe)

    return make_splits(
        name=name,
        datasets={
            "train": images("train", settings.augment),
            "calibration": images("train"),
            "validation": images("validation"),
            "test": images("test"),
        },
        class_names=class_names,
        input_shape=input_shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=num_workers,
    )
