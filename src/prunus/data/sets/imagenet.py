"""ImageNet (ILSVRC 2012): 1 281 167 + 50 000 photographs in a thousand classes."""

from __future__ import annotations

from pathlib import Path

import torch

from prunus.core import DataError, derive_seed
from prunus.data.file_splits import split_files
from prunus.data.files import Recipe, find_images, same_classes
from prunus.data.registry import DataSettings, missing, register_data
from prunus.data.splits import DataSplits, split_stratified

__all__ = ["load_imagenet"]

_META = "meta.bin"


def _find(data_root: Path, argument: str) -> Path | None:
    for folder in (data_root / "imagenet", data_root):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return folder
    return None


@register_data(
    "imagenet",
    source="Russakovsky et al.: ImageNet large scale visual recognition challenge, 2015",
    terms="non-commercial research and education, after registration",
    input_shape=(3, 224, 224),
    num_classes=1_000,
    sizes={"train": 1_281_167, "validation": 50_000},
    find=_find,
    place="imagenet",
    get="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php (registration)",
)
def load_imagenet(settings: DataSettings) -> DataSplits:
    """Load ImageNet from `data_root`/imagenet, or `data_root`, with train/ and val/ in it.

    Both hold a subfolder nXXXXXXXX of each class, as torchvision's `ImageNet` unpacks the two
    archives. It also writes meta.bin, from which the class names are read: "n01440764 tench".

    Test: the 50 000 of val/, since the labels of the official test images are not public.
    Validation: 50 training images per class (a tenth if there are fewer than 500 per class),
    stratified by the seed. Shorter side resized to 256, centre crop of 224×224 (in proportion for
    other sizes); augmented: a random crop of 8 to 100 % of the area, resized, flipped at random.

    Source: [ImageNet]; crops: [GoogLeNet, section 6].

    Raises:
        DataError: the folders are missing, or hold no images or different classes.
    """
    folder = _find(settings.data_root, "")
    if folder is None:
        raise missing(
            "imagenet",
            settings.data_root,
            "train/ and val/, each with a folder of every class (torchvision.datasets.ImageNet "
            "unpacks the archives so),",
        )
    classes, rest = find_images(folder / "train", least=2)
    test = same_classes(folder / "val", classes)
    size = max(len(classes), min(50 * len(classes), len(rest.paths) // 10))
    kept, taken = split_stratified(
        rest.labels, size, derive_seed(settings.seed, "imagenet", "validation")
    )
    return split_files(
        settings,
        name="imagenet",
        parts={"train": rest.select(kept), "validation": rest.select(taken), "test": test},
        class_names=_names(folder / _META, classes),
        recipe=Recipe(margin=256 / 224, least_area=0.08),
    )


def _names(path: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return each class's WordNet number and, if `path` contains it, its first name."""
    if not path.is_file():
        return folders
    try:
        words = torch.load(path, weights_only=True)[0]
        return tuple(f"{folder} {words[folder][0]}" for folder in folders)
    except Exception as error:  # not a torch file, or not ImageNet's classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read ({reason}): remove it") from error
