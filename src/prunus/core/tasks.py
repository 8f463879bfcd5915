"""The task of a network; it determines its loss, its metric and the form of its data."""

from __future__ import annotations

from typing import Literal

__all__ = ["Task"]

#: Labels and accuracy, or target images and PSNR.
Task = Literal["classification", "restoration"]
