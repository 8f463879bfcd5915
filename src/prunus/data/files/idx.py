"""The idx format: a magic number, the sizes as big-endian 32-bit numbers, then the bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from prunus.core import DataError

__all__ = ["read_idx"]

_UBYTE = 0x08  # the format's code for unsigned bytes


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read the idx file `path` of unsigned bytes, compressed if its name ends in .gz.

    The magic number is 0x0000080D, D = `dimensions`.

    Returns:
        uint8 with `dimensions` axes, with the sizes in the file's header.

    Raises:
        DataError: the file cannot be read, has another format, or is truncated.

    Source: [MNIST], section "File formats" of its page.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): download it again") from error
    header = 4 * (1 + dimensions)
    expected = _UBYTE << 8 | dimensions
    magic = int.from_bytes(content[:4], "big")
    if len(content) < header or magic != expected:
        raise DataError(
            f"{path} starts with {content[:4].hex()}, expected the magic number {expected:08x} "
            f"of an idx file with {dimensions} axes: download it again"
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(sizes):
        raise DataError(
            f"{path} holds {len(content) - header} bytes of data, its header announces "
            f"{math.prod(sizes)}: download it again"
        )
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(sizes)
