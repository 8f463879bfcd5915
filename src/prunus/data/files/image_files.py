"""Image files on disk: listing them, and converting one to a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunus.core import DataError, imported
from prunus.data.files.decode import read_image

__all__ = [
    "IMAGE_SUFFIXES",
    "Files",
    "ImageFiles",
    "Recipe",
    "find_images",
    "find_layout",
    "same_classes",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's mean and deviation
_GREY = ((0.449,), (0.226,))  # their averages


@dataclass(frozen=True)
class Files:
    """Paths of N images and their labels, int64 (N,)."""

    paths: tuple[Path, ...]
    labels: Tensor

    def select(self, index: Tensor) -> Files:
        """Return the files at the positions `index`."""
        return Files(tuple(self.paths[i] for i in index.tolist()), self.labels[index])


def find_layout(root: Path) -> dict[str, Path]:
    """Return the folder of 'train' and, if `root` has them, of 'test' and 'validation'.

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give one with a subfolder for each class")
    train, validation, test = (root / part for part in ("train", "val", "test"))
    if not train.is_dir() or not (validation.is_dir() or test.is_dir()):
        return {"train": root}
    if not test.is_dir():
        return {"train": train, "test": validation}
    given = {"validation": validation} if validation.is_dir() else {}
    return {"train": train, "test": test, **given}


def find_images(root: Path, *, least: int) -> tuple[tuple[str, ...], Files]:
    """Return the class names, which are the sorted subfolders of `root`, and the images in them.

    Raises:
        DataError: there are no classes, there is only one, or one has fewer than `least` images.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {
        folder.name: sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
        )
        for folder in folders
    }
    if not any(found.values()):
        raise DataError(
            f"{root} holds no images in subfolders: put the images of each class in a subfolder "
            f"of its own, as {', '.join(IMAGE_SUFFIXES)}"
        )
    if len(found) == 1:
        raise DataError(
            f"{root} holds one class, {folders[0].name!r}, so there is nothing to classify: "
            "give at least two subfolders"
        )
    for name, paths in found.items():
        if len(paths) < least:
            raise DataError(
                f"class {name!r} of {root} has {len(paths)} images, but the split needs at "
                f"least {least} of each class: add images or remove the folder"
            )
    labels = [label for label, paths in enumerate(found.values()) for _ in paths]
    files = Files(tuple(p for paths in found.values() for p in paths), torch.tensor(labels))
    return tuple(found), files


def same_classes(root: Path, expected: tuple[str, ...]) -> Files:
    """Return the images in the subfolders of `root`, another split of the same classes.

    Raises:
        DataError: the classes differ, or one of them has no image.
    """
    classes, files = find_images(root, least=1)
    odd = sorted(set(classes) ^ set(expected))
    if odd:
        where = "only there" if odd[0] in classes else "missing there"
        raise DataError(
            f"{root} has different classes than the training split: {odd[0]!r} is {where}: "
            "give every split the same class folders"
        )
    return files


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file is converted to an image (C, H, W) of the requested size.

    | field | meaning |
    | --- | --- |
    | margin | the shorter side becomes `margin` × max(H, W) before the centre is cropped |
    | least_area | augmented: the least share of the image that a random crop keeps |
    | squash | resized to H×W without keeping the aspect ratio, so that nothing is cropped |

    Augmented images are also flipped at random.
    """

    margin: float = 1.0
    least_area: float = 0.5
    squash: bool = False

    def side(self, input_shape: tuple[int, int, int], *, augment: bool) -> int:
        """Return the side in pixels that an image is resized to: the longest, or before a crop."""
        longest = max(input_shape[1:])
        return longest if augment or self.squash else round(self.margin * longest)


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded and transformed on access.

    Shapes: index → float32 (C, H, W) of `input_shape`, and the label.
    """

    def __init__(
        self,
        files: Files,
        input_shape: tuple[int, int, int],
        *,
        augment: bool,
        recipe: Recipe | None = None,
    ) -> None:
        self.files = files
        self.channels = input_shape[0]
        recipe = recipe or Recipe()
        self.side = recipe.side(input_shape, augment=augment)
        self.transform = _transform(input_shape, augment, recipe)

    def __len__(self) -> int:
        return len(self.files.paths)

    @property
    def labels(self) -> Tensor:
        """The class of each image, int64 (N,)."""
        return self.files.labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = read_image(self.files.paths[index], self.channels, self.side)
        return self.transform(image), int(self.files.labels[index])


def _transform(input_shape: tuple[int, int, int], augment: bool, recipe: Recipe) -> Any:
    v2 = imported("torchvision.transforms.v2")  # slow to import: only when needed
    C, H, W = input_shape
    if augment:
        area = (recipe.least_area, 1.0)
        crop = [v2.RandomResizedCrop((H, W), scale=area), v2.RandomHorizontalFlip()]
    elif recipe.squash:
        crop = [v2.Resize((H, W))]
    else:
        crop = [v2.Resize(recipe.side(input_shape, augment=False)), v2.CenterCrop((H, W))]
    mean, std = _GREY if C == 1 else _RGB
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    return v2.Compose([*crop, *to_tensor, v2.Normalize(mean, std)])
