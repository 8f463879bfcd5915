"""File formats of data sets: reading, checking, conversion to arrays."""

from prunus.data.files.cifar_compact import find_compact, read_compact
from prunus.data.files.cifar_pickles import find_pickles, read_pickles
from prunus.data.files.decode import UnreadableImageError, is_grey, read_image, verify_images
from prunus.data.files.idx import read_idx
from prunus.data.files.image_files import (
    IMAGE_SUFFIXES,
    Files,
    ImageFiles,
    Recipe,
    find_images,
    find_layout,
    same_classes,
)
from prunus.data.files.mat_files import read_mat

__all__ = [
    "IMAGE_SUFFIXES",
    "Files",
    "ImageFiles",
    "Recipe",
    "UnreadableImageError",
    "find_compact",
    "find_images",
    "find_layout",
    "find_pickles",
    "is_grey",
    "read_compact",
    "read_idx",
    "read_image",
    "read_mat",
    "read_pickles",
    "same_classes",
    "verify_images",
]
