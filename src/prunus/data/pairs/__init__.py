"""Pairs of degraded images and their originals, for restoration."""

from prunus.data.pairs.bicubic import rgb_to_luma
from prunus.data.pairs.degrade import Degradation, Downsampling, GaussianNoise, JpegCompression
from prunus.data.pairs.pairs import ImagePairs, Images, PatchPairs
from prunus.data.pairs.photographs import IMAGE_SETS, find_set

__all__ = [
    "IMAGE_SETS",
    "Degradation",
    "Downsampling",
    "GaussianNoise",
    "ImagePairs",
    "Images",
    "JpegCompression",
    "PatchPairs",
    "find_set",
    "rgb_to_luma",
]
