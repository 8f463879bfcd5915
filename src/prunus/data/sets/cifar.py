"""CIFAR-10 and CIFAR-100: 50 000 + 10 000 colour images of 32×32, in 10 or 100 classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from prunus.core import DataError
from prunus.data.augment import Augmentation, cut_out, flip_images, shift_images
from prunus.data.download import download
from prunus.data.files import find_compact, find_pickles, read_compact, read_pickles
from prunus.data.memory import Scaling, split_in_memory
from prunus.data.options import read_options
from prunus.data.registry import DataSettings, register_data
from prunus.data.splits import DataSplits

__all__ = ["load_cifar10", "load_cifar100"]

_SOURCE = "Krizhevsky: Learning multiple layers of features from tiny images, 2009"
_TERMS = "no licence; cite the report"
_SIZES = {"train": 50_000, "test": 10_000}
_SHAPE = (3, 32, 32)
_ARGUMENT = "[cutout=SIDE,norm=own]"

_IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_OWN_10 = Scaling(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
_OWN_100 = Scaling(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


def _find10(data_root: Path, argument: str) -> Path | None:
    return find_pickles(data_root, 10) or find_compact(data_root)


def _find100(data_root: Path, argument: str) -> Path | None:
    return find_pickles(data_root, 100)


@register_data(
    "cifar10",
    source=_SOURCE,
    terms=_TERMS,
    input_shape=_SHAPE,
    num_classes=10,
    sizes=_SIZES,
    argument=_ARGUMENT,
    find=_find10,
    place="cifar-10-batches-py",
    get="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
def load_cifar10(settings: DataSettings) -> DataSplits:
    """Load CIFAR-10, named `cifar10`, `cifar10:cutout`, `cifar10:cutout=8`, `cifar10:norm=own`.

    Read from `data_root`/cifar-10-batches-py, the published pickles as torchvision leaves them;
    else from `data_root`/cifar10, the compact form: train_1.npz … train_5.npz and test.npz of
    lossless WebP (see `read_compact`); else the former is downloaded if permitted.

    Test: the published 10 000. Validation: 5 000 of the 50 000, stratified by the seed.
    Augmented: padded by 4 zeros on every side, cropped at random to 32×32, flipped at random; with
        `cutout`, a square of 16×16 (or SIDE) is then filled with the mean. For other sizes these
        numbers scale with the image.

    Normalised by ImageNet's mean (.485, .456, .406) and deviation (.229, .224, .225), because
    the public CIFAR-10 ResNets were trained so: under the data set's own constants, mean
    (.4914, .4822, .4465) and deviation (.247, .2435, .2616), which `norm=own` uses, their published
    accuracy (ResNet-20: 91.73 %) is not reproduced.

    Source: [CIFAR]; the augmentation: [ResNet, section 4.2] and [Cutout, section 4.1].

    Raises:
        DataError: a file is broken, or missing and cannot be downloaded, or an option is unknown.
    """
    scalings = {"imagenet": _IMAGENET, "own": _OWN_10}
    return _load(settings, 10, scalings, norm="imagenet", cutout=16)


@register_data(
    "cifar100",
    source=_SOURCE,
    terms=_TERMS,
    input_shape=_SHAPE,
    num_classes=100,
    sizes=_SIZES,
    argument=_ARGUMENT,
    find=_find100,
    place="cifar-100-python",
    get="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)
def load_cifar100(settings: DataSettings) -> DataSplits:
    """Load CIFAR-100 with its fine labels; `parents` are the 20 published coarse classes.

    Read from `data_root`/cifar-100-python, downloaded if permitted. Splits and
    augmentation as in `load_cifar10`; `cutout` alone is 8×8. Normalised by its own mean (.5071,
    .4865, .4409) and deviation (.2673, .2564, .2762); `norm=imagenet` uses ImageNet's.

    Source: as for `load_cifar10`; its page lists which fine classes make up a coarse one.

    Raises:
        DataError: a file is broken, or missing and cannot be downloaded, or an option is unknown.
    """
    scalings = {"own": _OWN_100, "imagenet": _IMAGENET}
    return _load(settings, 100, scalings, norm="own", cutout=8)


def _load(
    settings: DataSettings, classes: int, scalings: Mapping[str, Scaling], *, norm: str, cutout: int
) -> DataSplits:
    """Load CIFAR of 10 or 100 `classes`; `norm` and `cutout` are the defaults there."""
    name, root = f"cifar{classes}", settings.data_root
    known = {"cutout": str(cutout), "norm": "own"}
    options = read_options(name, settings.argument, known)
    norm = options.get("norm", norm)
    if norm not in scalings:
        raise DataError(f"{name} was given norm={norm}: choose one of {', '.join(scalings)}")
    scaling = scalings[norm]
    augment = _augmentation(settings.input_shape or _SHAPE, _side(name, options), scaling)
    if find_pickles(root, classes) is None and (classes == 100 or find_compact(root) is None):
        download(
            name,
            root,
            "the unpacked files",
            lambda datasets: getattr(datasets, name.upper())(root, download=True),
        )
    pickles = find_pickles(root, classes)
    read = read_pickles(pickles, classes) if pickles else read_compact(root / name)
    return split_in_memory(
        settings,
        name=f"{name}:{settings.argument}" if settings.argument else name,
        rest=read.train,
        test=read.test,
        validation_size=len(read.train[1]) // 10,
        class_names=read.class_names,
        scaling=scaling,
        default_shape=_SHAPE,
        augment=augment,
        parents=read.parents,
        parent_names=read.parent_names,
    )


def _side(name: str, options: Mapping[str, str]) -> int:
    """Return the side of the cut-out square in pixels, 0 for none."""
    text = options.get("cutout", "0")
    if not text.isdecimal() or int(text) > 32:
        raise DataError(f"{name} was given cutout={text}: expected a side of 0 to 32 pixels")
    return int(text)


def _augmentation(shape: tuple[int, int, int], side: int, scaling: Scaling) -> Augmentation:
    """Return crop, flip and cutout for images resized from 32×32 to `shape`."""
    C, H, W = shape
    reach = round(4 * H / 32), round(4 * W / 32)
    square = round(side * H / 32), round(side * W / 32)
    fill = torch.tensor((scaling.grey() if C == 1 else scaling).mean)
    return partial(_augment, reach=reach, square=square, fill=fill)


def _augment(x: Tensor, reach: tuple[int, int], square: tuple[int, int], fill: Tensor) -> Tensor:
    x = flip_images(shift_images(x, reach))
    return cut_out(x, square, fill) if min(square) else x
