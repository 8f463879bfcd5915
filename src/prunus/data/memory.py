"""Grey images held in memory as bytes, made into batches of floats by one index."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from prunus.core import derive_seed
from prunus.data.registry import DataSettings
from prunus.data.splits import DataSplits, make_splits, split_stratified

__all__ = ["GreyImages", "as_is", "shift_images", "split_in_memory"]

_MAX_SHIFT = 2  # pixels of the resized image

Batch = tuple[Tensor, Tensor]


def as_is(batch: Batch) -> Batch:
    """Collate nothing: `GreyImages` gives whole batches."""
    return batch


class GreyImages(Dataset[Batch]):
    """Grey images and labels, resized, shifted and normalised when fetched.

    x = (bytes / `scale`, resized - `mean`) / `std`, repeated to C channels. The black
    background shifts in with the image.

    Shapes: images uint8 (N, h, w), labels int64 (N,) → float32 (B, C, H, W), int64 (B,).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        scale: float,
        mean: float,
        std: float,
        input_shape: tuple[int, int, int],
        max_shift: int = 0,
    ) -> None:
        self.images, self.labels = images, labels
        self.scale, self.mean, self.std = scale, mean, std
        self.input_shape = input_shape
        self.max_shift = max_shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the batch (B, C, H, W), (B,) of `indices`."""
        index = torch.as_tensor(indices)
        C, H, W = self.input_shape
        x = self.images[index].unsqueeze(1).float() / self.scale  # (B, 1, h, w)
        h, w = x.shape[2:]
        if (h, w) != (H, W):
            smaller = h > H or w > W
            x = F.interpolate(x, (H, W), mode="bilinear", antialias=smaller)  # (B, 1, H, W)
        if self.max_shift:
            x = shift_images(x, self.max_shift)
        x = (x - self.mean) / self.std
        return x.repeat(1, C, 1, 1), self.labels[index]


def shift_images(x: Tensor, reach: int) -> Tensor:
    """Move each image by its own whole pixels, up to `reach` along each axis, zeros moving in.

    Shapes: (B, C, H, W) → (B, C, H, W). Draws from PyTorch's global generator.
    """
    B, _, H, W = x.shape
    padded = F.pad(x, (reach, reach, reach, reach))
    top, left = torch.randint(0, 2 * reach + 1, (2, B, 1))
    rows = (top + torch.arange(H))[:, :, None]  # (B, H, 1)
    columns = (left + torch.arange(W))[:, None, :]  # (B, 1, W)
    moved = padded[torch.arange(B)[:, None, None], :, rows, columns]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2).contiguous()


def split_in_memory(
    settings: DataSettings,
    *,
    name: str,
    rest: Batch,
    test: Batch,
    validation_size: int,
    scale: float,
    mean: float,
    std: float,
    default_shape: tuple[int, int, int],
) -> DataSplits:
    """Split validation off `rest` by the seed, and wrap all into loaders.

    `rest` and `test` are images uint8 (N, h, w) and labels int64 (N,) of ten digits.
    """
    input_shape = settings.input_shape or default_shape
    train_index, validation_index = split_stratified(
        rest[1], validation_size, derive_seed(settings.seed, name, "validation")
    )

    def images(batch: Batch, index: Tensor | slice = slice(None), shift: int = 0) -> GreyImages:
        return GreyImages(
            batch[0][index],
            batch[1][index],
            scale=scale,
            mean=mean,
            std=std,
            input_shape=input_shape,
            max_shift=shift,
        )

    return make_splits(
        name=name,
        datasets={
            "train": images(rest, train_index, _MAX_SHIFT if settings.augment else 0),
            "calibration": images(rest, train_index),
            "validation": images(rest, validation_index),
            "test": images(test),
        },
        class_names=tuple("0123456789"),
        input_shape=input_shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        collate=as_is,
    )
