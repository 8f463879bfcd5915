"""Images held in memory as bytes, converted to float batches by one indexing operation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from prunus.core import DataError, derive_seed
from prunus.data.augment import Augmentation
from prunus.data.registry import DataSettings, Shape
from prunus.data.splits import DataSplits, make_splits, split_stratified

__all__ = ["ImageBatch", "MemoryImages", "Scaling", "as_is", "split_in_memory"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601's weights of red, green and blue

ImageBatch = tuple[Tensor, Tensor]


def as_is(batch: ImageBatch) -> ImageBatch:
    """Return the batch unchanged: `MemoryImages` returns whole batches."""
    return batch


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How bytes are converted to network inputs: (bytes / `most` - `mean`) / `std`, by channel."""

    most: float = 255
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def grey(self) -> Scaling:
        """Return the same for the luma of colour images: mean's luma, the average deviation."""
        luma = sum(weight * mean for weight, mean in zip(_LUMA, self.mean, strict=True))
        return replace(self, mean=(luma,), std=(sum(self.std) / 3,))


class MemoryImages(Dataset[ImageBatch]):
    """Images and labels, resized, augmented and normalised on access, a whole batch at once.

    x = (augmented(resized(bytes / most)) - mean) / std. Grey images are repeated to the requested
    number of channels; colour images can be requested with 3 channels, or with 1: their luma .299 R
    + .587 G + .114 B, normalised by the luma of `mean` and the average of `std`.

    Shapes: images uint8 (N, c, h, w), labels int64 (N,) → float32 (B, C, H, W), int64 (B,).

    Raises:
        DataError: `input_shape` has a number of channels that cannot be made.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        scaling: Scaling,
        input_shape: Shape,
        augment: Augmentation | None = None,
    ) -> None:
        channels = images.shape[1]
        if channels not in (1, input_shape[0]) and (channels, input_shape[0]) != (3, 1):
            raise DataError(
                f"these images have {channels} channels, {input_shape[0]} were requested: set "
                f"{channels} or 1 in input_shape"
            )
        self.images, self.labels = images, labels
        self.grey = (channels, input_shape[0]) == (3, 1)
        scaling = scaling.grey() if self.grey else scaling
        self.most = scaling.most
        self.mean, self.std = _column(scaling.mean), _column(scaling.std)
        self.input_shape = input_shape
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """Return the batch (B, C, H, W), (B,) of `indices`."""
        index = torch.as_tensor(indices)
        C, H, W = self.input_shape
        x = self.images[index].float() / self.most  # (B, c, h, w)
        if self.grey:
            x = (x * _column(_LUMA)).sum(1, keepdim=True)  # (B, 1, h, w)
        h, w = x.shape[2:]
        if (h, w) != (H, W):
            smaller = h > H or w > W
            x = F.interpolate(x, (H, W), mode="bilinear", antialias=smaller)  # (B, c, H, W)
        if self.augment is not None:
            x = self.augment(x)
        x = (x - self.mean) / self.std
        return x.expand(-1, C, -1, -1).contiguous(), self.labels[index]


def _column(values: tuple[float, ...]) -> Tensor:
    """Return one value per channel, (c, 1, 1)."""
    return torch.tensor(values)[:, None, None]


def split_in_memory(
    settings: DataSettings,
    *,
    name: str,
    rest: ImageBatch,
    test: ImageBatch,
    validation_size: int,
    class_names: tuple[str, ...],
    scaling: Scaling,
    default_shape: Shape,
    augment: Augmentation,
    parents: tuple[int, ...] | None = None,
    parent_names: tuple[str, ...] = (),
) -> DataSplits:
    """Split validation off `rest` by the seed, and return loaders for all splits.

    `rest` and `test` are images uint8 (N, c, h, w) and labels int64 (N,). The choice of validation
    images depends on the seed and on `name` up to its colon. `augment` applies to the training
    images, if the settings enable it.
    """
    input_shape = settings.input_shape or default_shape
    kept, taken = split_stratified(
        rest[1], validation_size, derive_seed(settings.seed, name.partition(":")[0], "validation")
    )
    train = rest[0][kept], rest[1][kept]  # only once: training and calibration share it

    def images(batch: ImageBatch, augment: Augmentation | None = None) -> MemoryImages:
        return MemoryImages(*batch, scaling=scaling, input_shape=input_shape, augment=augment)

    return make_splits(
        name=name,
        datasets={
            "train": images(train, augment if settings.augment else None),
            "calibration": images(train),
            "validation": images((rest[0][taken], rest[1][taken])),
            "test": images(test),
        },
        class_names=class_names,
        input_shape=input_shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        collate=as_is,
        parents=parents,
        parent_names=parent_names,
    )
