"""A folder of images, one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import torch

from prunus.core import derive_seed
from prunus.data.file_splits import split_files
from prunus.data.files import Files, Recipe, find_images, find_layout, same_classes
from prunus.data.registry import DataSettings, register_data
from prunus.data.splits import DataSplits, split_stratified

__all__ = ["load_folder"]

_SHARE = 0.15  # of validation, and of test if PATH has no test split


def _find(data_root: Path, argument: str) -> Path | None:
    folder = Path(argument).expanduser()
    return folder if argument and folder.is_dir() else None


@register_data(
    "folder",
    source="your own images, one subfolder per class, or train/ and test/ with such subfolders",
    terms="your own",
    input_shape=(3, 224, 224),
    argument="PATH",
    find=_find,
)
def load_folder(settings: DataSettings, num_workers: int | None = None) -> DataSplits:
    """Load the images in the folder `settings.argument`, one subfolder per class.

    70 % train, 15 % validation, 15 % test, stratified: the test images are the same for every seed;
    the seed splits the others. If the folder holds `train` and `test` (or `val`) with the classes
    inside, the latter is the test split and 15 % of the former the validation; if it holds all
    three, each is used as named and the seed has no effect on the splits.

    Images have 3×224×224 by default: shorter side resized to max(H, W),
    centre cropped, normalised by ImageNet's mean and deviation. Augmented: a random crop of 50
    to 100 % of the area, resized, and a random flip. `num_workers` is 0 for up to 2 000 images
    and otherwise up to 4; augmentation is reproducible for the same number of workers.

    Raises:
        DataError: the folder is missing or empty, has one class or classes with too few images,
            its splits have different classes, or an image cannot be read.
    """
    classes, parts = _split(settings)
    return split_files(
        settings,
        name=f"folder:{settings.argument}",
        parts=parts,
        class_names=classes,
        recipe=Recipe(),
        num_workers=num_workers,
    )


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
    parts = {"test": same_classes(layout["test"], classes)}
    if "validation" in layout:
        parts |= {"train": files, "validation": same_classes(layout["validation"], classes)}
    else:
        parts["train"], parts["validation"] = _part(files, len(files.paths), seed)
    return classes, parts


def _part(files: Files, total: int, seed: int) -> tuple[Files, Files]:
    """Take `_SHARE` of `total` images from `files`, at least one of each class."""
    size = max(round(_SHARE * total), len(torch.unique(files.labels)))
    rest, part = split_stratified(files.labels, size, seed)
    return files.select(rest), files.select(part)
