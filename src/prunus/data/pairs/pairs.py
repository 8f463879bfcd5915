"""Pairs of a degraded image and the original, whole or in patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunus.core import DataError, derive_seed, memory_limit
from prunus.data.files import is_grey, read_image
from prunus.data.pairs.bicubic import rgb_to_luma
from prunus.data.pairs.degrade import Degradation, degrade_crop

__all__ = ["ImagePairs", "Images", "PatchPairs"]

# Bytes of decoded images kept in memory, for the training and the test folder each: at most so
# many, and so small a share of what the process may use.
_HELD, _SHARE = 2**30, 8

Pair = tuple[Tensor, Tensor]


class Images(Sequence[Tensor]):
    """The images of files as bytes: the first GiB of them is cached, the others are read on access.

    Where the process may use less than 8 GiB, an eighth of that is cached.

    One channel of a colour image is its luma Y (`rgb_to_luma`), or its grey value 0.299 R +
    0.587 G + 0.114 B where `luma` is false. One channel of a grey file is the file's own. Three
    channels of a grey file are three copies of it.

    Shapes: index → uint8 (C, H, W).
    """

    def __init__(self, paths: Sequence[Path], *, channels: int, luma: bool) -> None:
        self.paths = tuple(paths)
        self.channels, self.luma = channels, luma
        self.held: list[Tensor] = []
        size, most = 0, min(_HELD, memory_limit() // _SHARE)
        for path in self.paths:
            image = self._read(path)
            size += image.numel()
            if size > most:
                break
            self.held.append(image)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # no slices
        """Return the image at `index`."""
        return self.held[index] if index < len(self.held) else self._read(self.paths[index])

    def _read(self, path: Path) -> Tensor:
        luma = self.luma and self.channels == 1
        pixels = np.array(read_image(path, 3 if luma else self.channels))
        image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
        if luma:
            image = image[:1] if is_grey(path) else rgb_to_luma(image)
        return image.contiguous()


class ImagePairs(Dataset[Pair]):
    """Whole images, cropped at the right and bottom to multiples of the scale, the same each time.

    Shapes: index → float32 (C, H/s, W/s) and (C, H, W), s the scale.
    """

    def __init__(self, images: Images, index: Sequence[int], degradation: Degradation) -> None:
        self.images, self.index = images, tuple(index)
        self.degradation = degradation

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Pair:
        image = _trim(self.images, self.index[i], self.degradation.scale)
        generator = _generator(self.images.paths[self.index[i]], "image")
        return self.degradation(image, generator), image.float() / 255


class PatchPairs(Dataset[Pair]):
    """Patches of images, `count` of each.

    If `fixed`, position and noise depend only on the file's name and the patch's number; otherwise
    both are drawn each time from PyTorch's global generator. `augment` rotates a patch by 0, 90,
    180 or 270 degrees and flips it in half the cases. An image smaller than the patch is extended
    by mirroring first.

    Shapes: index → float32 (C, h, w) with (h, w) = `size`, and (C, s·h, s·w), s the scale.
    """

    def __init__(
        self,
        images: Images,
        index: Sequence[int],
        degradation: Degradation,
        size: tuple[int, int],
        *,
        count: int,
        fixed: bool = False,
        augment: bool = False,
    ) -> None:
        self.images, self.index = images, tuple(index)
        self.degradation = degradation
        self.size = size
        self.count, self.fixed, self.augment = count, fixed, augment

    def __len__(self) -> int:
        return len(self.index) * self.count

    def __getitem__(self, i: int) -> Pair:
        which, number = self.index[i // self.count], i % self.count
        generator = _generator(self.images.paths[which], number) if self.fixed else None
        s = self.degradation.scale
        H, W = s * self.size[0], s * self.size[1]
        image = _continue(_trim(self.images, which, s), H, W)
        top, left = (
            s * int(torch.randint((length - part) // s + 1, (), generator=generator))
            for length, part in zip(image.shape[1:], (H, W), strict=True)
        )
        x = degrade_crop(image, self.degradation, top, left, (H, W), generator)
        y = image[:, top : top + H, left : left + W].float() / 255
        if self.augment:
            x, y = _turn(x, y, int(torch.randint(8, ())))
        return x, y


def _generator(path: Path, which: object) -> torch.Generator:
    """Return the generator of one image, seeded by the file's name, not its folder."""
    return torch.Generator().manual_seed(derive_seed(0, "restoration", path.name, which))


def _trim(images: Images, which: int, scale: int) -> Tensor:
    """Return an image, cropped at the right and bottom to multiples of `scale`."""
    image = images[which]
    H, W = image.shape[1:]
    if min(H, W) < scale:
        raise DataError(
            f"image {images.paths[which]} of {H}×{W} pixels is empty at 1/{scale}: remove it from "
            "the folder"
        )
    return image[:, : H - H % scale, : W - W % scale]


def _continue(image: Tensor, H: int, W: int) -> Tensor:
    """Mirror `image` at its lower and right border until it is H×W."""
    for axis, length in ((1, H), (2, W)):
        while image.shape[axis] < length:
            image = torch.cat([image, image.flip(axis)], axis).narrow(
                axis, 0, min(length, 2 * image.shape[axis])
            )
    return image


def _turn(x: Tensor, y: Tensor, which: int) -> Pair:
    """Return both in one of the eight orientations of a square (four for a rectangle)."""
    if which >= 4:
        x, y = x.flip(2), y.flip(2)
    turns = which % 4 if x.shape[1] == x.shape[2] else which % 2 * 2
    return torch.rot90(x, turns, (1, 2)), torch.rot90(y, turns, (1, 2))
