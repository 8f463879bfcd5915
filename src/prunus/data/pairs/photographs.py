"""Image sets of super-resolution, denoising and deblocking: their sources and folders.

T91 is from [T91] and DIV2K from [DIV2K]; the others are identified by their download address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunus.core import DataError
from prunus.data.files import IMAGE_SUFFIXES

__all__ = ["IMAGE_SETS", "ImageSet", "find_set", "image_set", "list_images"]

# Tried in this order: in data_root, the set itself, then by field, then EDSR's layout;
# in the set's folder, the images themselves, then EDSR's layout, then BasicSR's.
_ABOVE = ("", "sr", "denoise", "deblock", "benchmark")
_BELOW = ("", "HR", "GTmod12")


@dataclass(frozen=True)
class ImageSet:
    """A published set: its number of images, usual folder names, and where to get it."""

    name: str
    count: int
    folders: tuple[str, ...]
    get: str


_SELFEXSR = "https://github.com/jbhuang0604/SelfExSR (the HR images)"
_DNCNN = "https://github.com/cszn/DnCNN"
_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_SETS = (
    ImageSet("T91", 91, ("T91",), "https://github.com/tegg89/SRCNN-Tensorflow (Train)"),
    ImageSet("DIV2K", 800, ("DIV2K_train_HR", "DIV2K/DIV2K_train_HR"), _DIV2K),
    ImageSet("DIV2K-valid", 100, ("DIV2K_valid_HR", "DIV2K/DIV2K_valid_HR"), _DIV2K),
    ImageSet("BSD400", 400, ("BSD400", "Train400"), _DNCNN),
    ImageSet("Set5", 5, ("Set5",), _SELFEXSR),
    ImageSet("Set14", 14, ("Set14",), _SELFEXSR),
    ImageSet("B100", 100, ("B100", "BSD100"), _SELFEXSR),
    ImageSet("Urban100", 100, ("Urban100",), _SELFEXSR),
    ImageSet("BSD68", 68, ("BSD68",), _DNCNN),
    ImageSet("Set12", 12, ("Set12",), _DNCNN),
    ImageSet("Kodak24", 24, ("Kodak24", "Kodak", "kodak"), "https://r0k.us/graphics/kodak/"),
)

#: The sets by name. DIV2K as the test set means DIV2K-valid.
IMAGE_SETS = {known.name: known for known in _SETS}
_ALIASES = {"Train400": "BSD400"}


def image_set(name: str, *, test: bool = False) -> ImageSet | None:
    """Return the published set called `name`, as the test set if `test`, or None."""
    name = _ALIASES.get(name, name)
    return IMAGE_SETS.get("DIV2K-valid" if test and name == "DIV2K" else name)


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return the images directly in `folder`, sorted by name."""
    if not folder.is_dir():
        return ()
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return tuple(sorted(p for p in images if not p.name.startswith(".")))


def find_set(name: str, data_root: Path, *, test: bool = False) -> tuple[Path, ...]:
    """Return the images of the published set `name`, or of the folder `name`.

    A set's folder is searched in `data_root`, data_root/sr, /denoise, /deblock and /benchmark;
    its images are in it or, if there are none, in its subfolder HR or GTmod12. The same holds for a
    folder of your own.

    Raises:
        DataError: the folder does not exist, has no images, or not as many as the set has.
    """
    known = image_set(name, test=test)
    if known is None:
        own = Path(name).expanduser()
        for below in _BELOW:
            if paths := list_images(own / below):
                return paths
        raise DataError(
            f"{own} holds no images ({', '.join(IMAGE_SUFFIXES)}): put some there"
            if own.is_dir()
            else f"there is no folder {own}: give a folder of images, or one of the sets "
            f"{', '.join(IMAGE_SETS)}, which are searched in {data_root}"
        )
    for above in _ABOVE:
        for folder in known.folders:
            for below in _BELOW:
                if paths := list_images(data_root / above / folder / below):
                    return _whole(known, paths)
    raise DataError(
        f"{known.name} is not in {data_root}: get it from {known.get}, put its {known.count} "
        f"images into {data_root / known.folders[0]}, or name another data_root"
    )


def _whole(known: ImageSet, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if len(paths) != known.count:
        raise DataError(
            f"{paths[0].parent} holds {len(paths)} images and {known.name} has {known.count}: "
            f"put those of {known.get} there and no others, or give another folder by its path"
        )
    return paths
