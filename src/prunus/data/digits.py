"""The 1 797 handwritten digits that scikit-learn brings along: no download, seconds to train."""

from __future__ import annotations

import torch

from prunus.core import derive_seed
from prunus.data.memory import split_in_memory
from prunus.data.registry import DATASETS, DataSettings
from prunus.data.splits import DataSplits, split_stratified

__all__ = ["load_digits"]


@DATASETS.register("digits")
def load_digits(settings: DataSettings) -> DataSplits:
    """Load 8×8 digits of grey values 0 … 16, shown at 1×28×28 unless asked otherwise.

    28×28 is what the LeNets take; the resizing is bilinear. 60 % train, 20 % validation, 20 %
    test, stratified: the test images are the same for every seed, the seed splits the others.
    Normalised by mean and deviation of all but the test images, at 8×8.

    Source: Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI, 1998, test part.
    """
    from sklearn import datasets  # noqa: PLC0415 - heavy: only where asked for

    bunch = datasets.load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8)  # (1797, 8, 8)
    labels = torch.from_numpy(bunch.target).long()  # (1797,)
    fifth = len(labels) // 5
    rest, test = split_stratified(labels, fifth, derive_seed(0, "digits", "test"))
    pixels = images[rest].double() / 16
    return split_in_memory(
        settings,
        name="digits",
        rest=(images[rest], labels[rest]),
        test=(images[test], labels[test]),
        validation_size=fifth,
        scale=16,
        mean=float(pixels.mean()),
        std=float(pixels.std()),
        default_shape=(1, 28, 28),
    )
