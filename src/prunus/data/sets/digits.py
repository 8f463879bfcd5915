"""The 1 797 handwritten digits included in scikit-learn: no download, seconds to train."""

from __future__ import annotations

from functools import partial

import torch

from prunus.core import derive_seed, imported
from prunus.data.augment import shift_images
from prunus.data.memory import Scaling, split_in_memory
from prunus.data.registry import DataSettings, register_data
from prunus.data.splits import DataSplits, split_stratified

__all__ = ["load_digits"]


@register_data(
    "digits",
    source="Alpaydin, Kaynak: Optical recognition of handwritten digits, UCI 1998, test part",
    terms="CC BY 4.0; comes with scikit-learn",
    input_shape=(1, 28, 28),
    num_classes=10,
    sizes={"all": 1_797},
)
def load_digits(settings: DataSettings) -> DataSplits:
    """Load 8×8 digits of grey values 0 … 16, resized to 1×28×28 by default.

    28×28 is the input size of the LeNets; the resizing is bilinear. 60 % train, 20 % validation, 20
    %
    test, stratified: the test images are the same for every seed; the seed splits the others.
    Normalised by mean and deviation of all but the test images, at 8×8. Augmented: shifted by up to
    2 pixels of the resized image, padded with black.

    Source: [Digits], test part.
    """
    bunch = imported("sklearn.datasets").load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (1797, 1, 8, 8)
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
        class_names=tuple("0123456789"),
        scaling=Scaling(most=16, mean=(float(pixels.mean()),), std=(float(pixels.std()),)),
        default_shape=(1, 28, 28),
        augment=partial(shift_images, reach=2),
    )
