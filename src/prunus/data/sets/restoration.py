"""Restoration by name: super-resolution, denoising and deblocking of any folder of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from prunus.core import DataError, PrunusError, derive_seed, usable_cores
from prunus.data.pairs import (
    IMAGE_SETS,
    Degradation,
    Downsampling,
    GaussianNoise,
    ImagePairs,
    Images,
    JpegCompression,
    PatchPairs,
    find_set,
)
from prunus.data.registry import DatasetFinder, DataSettings, Shape, register_data
from prunus.data.splits import DataSplits, make_splits, split_stratified

__all__ = ["load_deblock", "load_denoise", "load_sr"]

_SHARE = 0.15  # of validation, and of test if none is named
_PATCHES = 16  # patches of each training image per epoch
_WORKERS = 4  # at most, and only if images are read each time
_LEAST = 16  # pixels: SSIM's window must fit into a validation crop

_FORMS = {
    "sr": "SCALE:TRAIN[,TEST]",
    "denoise": "SIGMA:TRAIN[,TEST]",
    "deblock": "QUALITY:TRAIN[,TEST]",
}
_TERMS = "of each set its own; most state none, BSD's are for research and education"
_EXAMPLES = {
    "sr": "sr:4:DIV2K,Set5",
    "denoise": "denoise:25:BSD400,BSD68",
    "deblock": "deblock:10:BSD400,path/to/LIVE1",
}
# The usual sets of each field; any other may be named as well.
_USUAL = {
    "sr": ("T91", "DIV2K", "DIV2K-valid", "Set5", "Set14", "B100", "Urban100"),
    "denoise": ("BSD400", "DIV2K", "BSD68", "Set12", "Kodak24", "Urban100"),
    "deblock": ("BSD400", "DIV2K", "BSD68", "Set12", "Kodak24"),
}


def _sizes(kind: str) -> dict[str, int]:
    return {name: IMAGE_SETS[name].count for name in _USUAL[kind]}


def _get(kind: str) -> str:
    places: dict[str, list[str]] = {}
    for name in _USUAL[kind]:
        places.setdefault(IMAGE_SETS[name].get, []).append(name)
    return "; ".join(f"{', '.join(names)}: {place}" for place, names in places.items())


def _parse(kind: str, argument: str) -> tuple[float, str, str]:
    """Return the amount, TRAIN and TEST ("": none) of AMOUNT:TRAIN[,TEST]."""
    amount, _, folders = argument.partition(":")
    train, comma, test = folders.partition(",")
    try:
        number = float(amount) if kind == "denoise" else int(amount)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or not train or (comma and not test) or "," in test:
        raise DataError(
            f"{kind} was given {argument!r}: write {kind}:{_FORMS[kind]}, with folders or names "
            f"of sets ({', '.join(IMAGE_SETS)}), as {_EXAMPLES[kind]}"
        )
    return number, train, test


def _finder(kind: str) -> DatasetFinder:
    """Return a finder of TRAIN and TEST; for the bare `kind`, of any usual set."""

    def find(data_root: Path, argument: str) -> Path | None:
        if not argument:
            return data_root if any(_there(name, data_root) for name in _USUAL[kind]) else None
        try:
            _, train, test = _parse(kind, argument)
            if test:
                find_set(test, data_root, test=True)
            return find_set(train, data_root)[0].parent
        except PrunusError:
            return None

    return find


def _there(name: str, data_root: Path) -> bool:
    try:
        return bool(find_set(name, data_root))
    except DataError:
        return False


@register_data(
    "sr",
    source="bicubic down-sampling of any images; T91 (Yang et al. 2010), DIV2K (NTIRE 2017)",
    terms=_TERMS,
    input_shape=(3, 24, 24),
    find=_finder("sr"),
    task="restoration",
    sizes=_sizes("sr"),
    argument=_FORMS["sr"],
    place="NAME",
    get=_get("sr"),
)
def load_sr(settings: DataSettings) -> DataSplits:
    """Load pairs for super-resolution: `settings.argument` is SCALE:TRAIN[,TEST].

    Inputs are the originals down-sampled bicubically by SCALE to uint8 (`Downsampling`).
    One channel is the luma Y, 16 … 235 of 255; three are RGB. Training patches are 96/SCALE pixels
    wide by default: 96 pixels of the original. For the rest see `_load`.

    Raises:
        DataError: as for `_load`.
        ConfigError: SCALE is less than 2.
    """
    scale = _parse("sr", settings.argument)[0]
    side = max(1, 96 // max(1, int(scale)))
    return _load("sr", settings, lambda scale: Downsampling(int(scale)), (3, side, side))


@register_data(
    "denoise",
    source="Gaussian noise on any images; BSD400, BSD68, Set12 (Zhang et al., DnCNN, 2017)",
    terms=_TERMS,
    input_shape=(1, 48, 48),
    find=_finder("denoise"),
    task="restoration",
    sizes=_sizes("denoise"),
    argument=_FORMS["denoise"],
    place="NAME",
    get=_get("denoise"),
)
def load_denoise(settings: DataSettings) -> DataSplits:
    """Load pairs for denoising: `settings.argument` is SIGMA:TRAIN[,TEST], SIGMA of 0 … 255.

    Inputs are the originals with Gaussian noise, not clipped (`GaussianNoise`): the same noise for
    a file each time, except in training. One channel is grey, three are RGB; patches are 48 pixels
    wide by default. For the rest see `_load`.

    Raises:
        DataError: as for `_load`.
        ConfigError: SIGMA is more than 255.
    """
    return _load("denoise", settings, GaussianNoise, (1, 48, 48))


@register_data(
    "deblock",
    source="JPEG compression of any images; BSD400 (Zhang et al., DnCNN, 2017)",
    terms=_TERMS,
    input_shape=(1, 48, 48),
    find=_finder("deblock"),
    task="restoration",
    sizes=_sizes("deblock"),
    argument=_FORMS["deblock"],
    place="NAME",
    get=_get("deblock"),
)
def load_deblock(settings: DataSettings) -> DataSplits:
    """Load pairs for JPEG deblocking: `settings.argument` is QUALITY:TRAIN[,TEST], 1 … 100.

    Inputs are the originals encoded as JPEG and decoded again (`JpegCompression`). One channel is
    the luma Y, 16 … 235 of 255; three are RGB; patches are 48 pixels wide by default. For the rest
    see `_load`.

    Raises:
        DataError: as for `_load`.
        ConfigError: QUALITY is not in 1 … 100.
    """
    return _load("deblock", settings, lambda quality: JpegCompression(int(quality)), (1, 48, 48))


def _load(
    kind: str, settings: DataSettings, make: Callable[[float], Degradation], default: Shape
) -> DataSplits:
    """Load pairs (input, original), both float32 with black 0 and white 1.

    TRAIN and TEST are a folder of images or the name of a published set, searched in `data_root`
    (`find_set`). 15 % of TRAIN's images, selected by the seed, are the validation. Without TEST,
    another 15 %, the same for every seed, are the test.

    * train: 16 patches of each image per epoch, drawn each time; with `augment` rotated and
    flipped.
    * calibration: 16 fixed patches of each training image.
    * validation: a fixed crop of each image, twice the patch in height and width, at least 16.
    * test: whole images one by one, cropped to multiples of the scale; their sizes differ.

    Up to 1 GiB of decoded images is cached for TRAIN and for TEST each, or an eighth of the memory
    that the process may use; the rest is read each time it is needed, by up to 4 workers.

    Raises:
        DataError: the argument cannot be read, a folder or set is missing or has too few images,
            an image cannot be read, or other than 1 or 3 channels are requested.
    """
    amount, train_name, test_name = _parse(kind, settings.argument)
    degradation = make(amount)
    C, h, w = shape = settings.input_shape or default
    if C not in (1, 3):
        raise DataError(
            f"{kind} has images of 1 or 3 channels, {C} were requested: set 1 or 3 in input_shape"
        )
    train_paths = find_set(train_name, settings.data_root)
    test_paths = find_set(test_name, settings.data_root, test=True) if test_name else train_paths
    if test_name and test_paths[0].parent.resolve() == train_paths[0].parent.resolve():
        raise DataError(
            f"{kind}:{settings.argument} would be tested on its own training images in "
            f"{test_paths[0].parent}: omit TEST to have them split, or name another"
        )
    train, validation, test = _split(train_paths, settings.seed, held_out=not test_name)
    images = Images(train_paths, channels=C, luma=kind != "denoise")
    test_images = images
    if test_name:
        test_images = Images(test_paths, channels=C, luma=kind != "denoise")
        test = range(len(test_paths))
    whole = len(images.held) == len(images) and len(test_images.held) == len(test_images)

    def patches(index: Sequence[int], **more: bool) -> PatchPairs:
        return PatchPairs(images, index, degradation, (h, w), count=_PATCHES, **more)

    crop = (max(_LEAST, 2 * h), max(_LEAST, 2 * w))
    return make_splits(
        name=f"{kind}:{settings.argument}",
        datasets={
            "train": patches(train, augment=settings.augment),
            "calibration": patches(train, fixed=True),
            "validation": PatchPairs(images, validation, degradation, crop, count=1, fixed=True),
            "test": ImagePairs(test_images, test, degradation),
        },
        class_names=(),
        input_shape=shape,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=0 if whole else min(_WORKERS, usable_cores()),
        one_by_one=("test",),
        task="restoration",
        scale=degradation.scale,
    )


def _split(
    paths: Sequence[Path], seed: int, *, held_out: bool
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return the positions of training, validation and, where `held_out`, test images."""
    N, least = len(paths), 3 if held_out else 2
    if least > N:
        raise DataError(
            f"{paths[0].parent} holds {N} images, but the split needs at least {least}: add images"
        )
    size = max(1, round(_SHARE * N))
    rest, test = torch.arange(N), torch.arange(0)
    if held_out:
        rest, test = split_stratified(rest * 0, size, derive_seed(0, "restoration", "test"))
    kept, taken = split_stratified(rest * 0, size, derive_seed(seed, "restoration", "validation"))
    return rest[kept].tolist(), rest[taken].tolist(), test.tolist()
