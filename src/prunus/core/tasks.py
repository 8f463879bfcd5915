"""What a network is for; decides its loss, its measure and what its data look like."""

from __future__ import annotations

from typing import Literal

__all__ = ["Task"]

#: Labels and accuracy, or target images and PSNR.
Task = Literal["classification", "restoration"]
