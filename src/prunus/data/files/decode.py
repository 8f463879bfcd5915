"""Decoding one image file: within a limit of pixels, large JPEGs at reduced size, 16-bit grey."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from prunus.core import ConfigError, DataError, PrunusError

__all__ = ["UnreadableImageError", "is_grey", "most_pixels", "read_image", "verify_images"]

#: The environment variable that sets the limit, and the limit without it, that of Pillow's warning:
#: a quarter of a GiB as RGB.
VARIABLE, MOST_PIXELS = "PRUNUS_MAX_PIXELS", 89_478_485
#: A JPEG of more pixels than this is decoded at 1/2, 1/4 or 1/8, with sides at least so many times
#: as long as needed: the least share of its area that a random crop keeps then has enough pixels.
LARGE, TIMES = 2**25, 8
#: How much larger than the limit a JPEG may be that is decoded at reduced size: a progressive one
#: is held as a whole all the same, at 3 bytes a pixel.
REDUCED = 2
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_lock = threading.Lock()


class UnreadableImageError(DataError):
    """An image file cannot be decoded.

    In a loader's worker process PyTorch re-creates this error from a printed traceback; the
    sentence is its last line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().splitlines()[-1].split(f"{type(self).__name__}: ")[-1])


def most_pixels() -> int:
    """Return how many pixels an image may have: PRUNUS_MAX_PIXELS, or 89 478 485 without it.

    Raises:
        ConfigError: the variable is set to something other than a whole number above 0.
    """
    given = os.environ.get(VARIABLE, "")
    if given and not (given.isascii() and given.isdigit() and int(given)):
        raise ConfigError(
            f"the environment variable {VARIABLE} is {given!r}, expected a whole number of pixels "
            "above 0: change it, or unset it"
        )
    return int(given or MOST_PIXELS)


def verify_images(paths: tuple[Path, ...], side: int | None = None) -> None:
    """Check the headers and sizes and, if the format has them, the checksums of all files.

    `side` is as for `read_image`.

    Raises:
        UnreadableImageError: names the first broken or too large file.
    """
    for path in paths:
        with _naming(path), _open(path, side) as image:
            image.verify()


def read_image(path: Path, channels: int, side: int | None = None) -> Image.Image:
    """Return the image with 8 bits a channel, as RGB, or as greyscale if `channels` is 1.

    16-bit grey values are scaled: round(value · 255 / 65 535). With `side`, the longer side of
    what the image is resized to, a JPEG of more than 2²⁵ pixels is decoded at 1/2, 1/4 or 1/8, with
    sides at least 8 times as long as that; any other image is decoded whole.

    Raises:
        UnreadableImageError: the file is broken, has more than `most_pixels()` pixels (twice
            as many in a JPEG that is decoded at reduced size), or its values have no known scale
            (floats, integers of 32 bits).
    """
    with _naming(path), _open(path, side) as image:
        if image.mode[0] in "IF":
            grey = _narrow(image)
            return grey if channels == 1 else grey.convert("RGB")
        whole = image.convert("RGBA") if "transparency" in image.info else image
        return whole.convert("L" if channels == 1 else "RGB")


def is_grey(path: Path) -> bool:
    """Return whether a file has one channel, with or without transparency."""
    with _naming(path), _open(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode[0] in "IF"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a decoder raises into one sentence that names the file."""
    try:
        yield
    except PrunusError:
        raise
    except Exception as error:  # each format raises its own errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnreadableImageError(
            f"image {path} cannot be read ({reason}): replace it, or remove it from the folder"
        ) from error


@contextmanager
def _open(path: Path, side: int | None = None) -> Iterator[Image.Image]:
    """Open a file by its header, and set the size that it is decoded at, within the limit."""
    most = most_pixels()
    with _lock:  # our limit in place of Pillow's, which knows of no reduced size
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
    with opened as image:
        width, height = image.size
        allowed = most
        if side is not None and image.format == "JPEG" and width * height > LARGE:
            image.draft(None, (TIMES * side, TIMES * side))
            allowed = REDUCED * most if image.size != (width, height) else most
        if width * height > allowed or image.width * image.height > most:
            limit = f"{allowed:,}".replace(",", " ")
            raise UnreadableImageError(
                f"image {path} has {width}×{height} pixels, more than the limit of {limit} that "
                "keeps one file from taking all memory: store it smaller, or set the environment "
                f"variable {VARIABLE}={width * height}"
            )
        yield image


def _narrow(image: Image.Image) -> Image.Image:
    """Return an image of 16-bit values as one of 8 bits.

    Pillow opens 16-bit grey as "I;16", or as "I" from PGM and, before its version 11.3, from PNG;
    "I" is 32 bits wide otherwise.
    """
    wide = image.mode in _WIDE_GREY or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not wide:
        raise ValueError(
            f"its values of mode {image.mode} have no known white, expected 8 or 16 bits a channel"
        )
    values = np.asarray(image).astype(np.uint32)  # (H, W), 0 … 65 535
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
