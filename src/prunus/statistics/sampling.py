"""How the input of a consumer becomes samples: by pixel, by patch, pooled, or flattened.

| sampling | a sample is | features of a channel (`cells`) |
|---|---|---|
| `pixel` | one position of the map | 1 |
| `patch` | the k×k input of one output position | k·k taps |
| `pool:g` | one cell of the map averaged to g×g | 1 |
| `flatten` | an image | H·W positions |
| `flatten:g` | an image, its map averaged to g×g | g·g cells |
| `dual` | as `flatten`, but kept as kernels between images (see `Dual`) | – |

Linear layers have rows for samples whatever the sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import ConfigError, DataError, derive_seed
from prunus.graph import Consumer
from prunus.modules import CONVOLUTIONS, TRANSPOSED

__all__ = ["Samples", "Sampling", "cells_of", "kernel_taps", "patches", "take_samples", "unfolding"]

#: Patches are taken until there are so many samples, and so many per feature.
LEAST_SAMPLES, SAMPLES_A_FEATURE = 10_000, 16


@dataclass(frozen=True)
class Sampling:
    """How to take samples: `kind`, and the grid of a pooled map."""

    kind: str
    grid: int | None = None

    @classmethod
    def parse(cls, text: str) -> Sampling:
        """Read `pixel`, `patch`, `pool:g`, `flatten`, `flatten:g` or `dual`."""
        kind, colon, grid = text.partition(":")
        allowed = {"pixel": False, "patch": False, "pool": True, "flatten": None, "dual": None}
        wrong = kind not in allowed or (allowed[kind] is not None and allowed[kind] != bool(colon))
        if wrong or (colon and not (grid.isdecimal() and int(grid) > 0)):
            raise ConfigError(
                f"sampling {text!r}: expected pixel, patch, pool:G, flatten, flatten:G, dual or "
                "dual:G, with G the side of the grid that maps are averaged to"
            )
        return cls(kind, int(grid) if colon else None)


@dataclass
class Samples:
    """What one batch gives one consumer.

    Attributes:
        x: features of P samples per image. Shape (B, F, P).
        cells: features of one channel.
        grid: spatial size of the map that samples are taken from; () where there is none.
        places: which of the grid's positions each sample is, shape (B, P); None for all.
    """

    x: Tensor
    cells: int = 1
    grid: tuple[int, ...] = ()
    places: Tensor | None = None

    def at(self, maps: Tensor) -> Tensor:
        """Return a teacher's maps (B, q, *spatial) at the samples: (B, q, P).

        Raises:
            DataError: the map that samples are taken from has another number of axes.
        """
        if not self.grid:
            return maps.flatten(2).mean(2, keepdim=True).expand(-1, -1, self.x.shape[2])
        if maps.dim() - 2 != len(self.grid):
            raise DataError(
                f"targets are maps of shape {tuple(maps.shape)}, and a consumer reads maps of "
                f"{len(self.grid)} spatial axes: give targets with as many axes, or vectors (B, q)"
            )
        flat = _pool(maps, self.grid).flatten(2)
        if self.places is None:
            return flat
        places = self.places.to(flat.device)
        return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))


def take_samples(
    x: Tensor,
    module: nn.Module,
    consumer: Consumer,
    sampling: Sampling,
    *,
    images: int,
    batch: int,
    feature_limit: int,
) -> Samples:
    """Return the samples of a consumer's input x.

    Args:
        images: how many images the whole pass will see, about; sets how many patches are taken
            of each.
        batch: number of the batch; with the consumer's name it seeds the choice of positions.
        feature_limit: a patch with more features than this is sampled by pixel.
    """
    if isinstance(module, nn.Linear):
        return _rows(x, consumer, sampling)
    if sampling.grid is not None:
        x = _pool(x, (sampling.grid,) * (x.dim() - 2))
    if sampling.kind in ("flatten", "dual"):
        return Samples(x.flatten(1).unsqueeze(-1), cells=x[0, 0].numel())
    taps = cells_of(module, x.shape[1], sampling, feature_limit)
    if taps is not None and taps > 1:
        need = max(LEAST_SAMPLES, SAMPLES_A_FEATURE * x.shape[1] * taps)
        seed = derive_seed(0, "patches", consumer.module, batch)
        return patches(x, module, math.ceil(need / max(images, 1)), seed)
    return Samples(x.flatten(2), grid=tuple(x.shape[2:]))


def cells_of(
    module: nn.Module, channels: int, sampling: Sampling, feature_limit: int
) -> int | None:
    """Return the cells of a channel that `take_samples` will give, None where maps decide."""
    if sampling.kind in ("flatten", "dual"):
        return None
    taps = kernel_taps(module) if sampling.kind == "patch" else 1
    return taps if channels * taps <= feature_limit else 1


def kernel_taps(module: nn.Module) -> int:
    """Return the taps of a convolution's kernel; 1 for what has no patches."""
    if isinstance(module, CONVOLUTIONS) and not isinstance(module, TRANSPOSED):
        return math.prod(module.kernel_size)
    return 1


def patches(x: Tensor, module: nn.Module, count: int, seed: int) -> Samples:
    """Return the unfolded input of `count` random output positions of each image.

    x has shape (B, C, *spatial); the samples have C·taps features, channel by channel, the taps
    in the kernel's order. All positions are taken, in order, where the output has no more than
    `count`.
    """
    assert isinstance(module, CONVOLUTIONS)
    grid, index, inside = unfolding(module, tuple(x.shape[2:]))
    places = draw_places(len(x), len(index), count, seed)
    B, C, taps = len(x), x.shape[1], index.shape[1]
    at = slice(None) if places is None else places
    index, inside = index[at].view(-1, *index[at].shape[-2:]), inside[at]  # (B or 1, P, taps)
    flat = index.transpose(1, 2).flatten(1).to(x.device)  # (B or 1, taps·P)
    taken = x.flatten(2).gather(2, flat[:, None].expand(B, C, -1))
    if not inside.all():
        mask = inside.view(index.shape).transpose(1, 2).flatten(1)
        taken *= mask.to(x)[:, None]
    return Samples(taken.view(B, C * taps, -1), taps, grid, places)


def draw_places(batch: int, positions: int, count: int, seed: int) -> Tensor | None:
    """Return `count` positions of each image, drawn with replacement: (B, count).

    None stands for all positions, in order, where there are no more than `count`.
    """
    if count >= positions:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(positions, (batch, count), generator=generator)


@lru_cache(maxsize=256)
def _geometry(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    before: tuple[int, ...],
    after: tuple[int, ...],
    mode: str,
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Return the output grid, where each tap reads in the flattened map, and whether inside.

    The last two have shape (positions, taps); what lies in zero padding is not inside.
    """
    numbers = torch.arange(math.prod(size)).view(1, 1, *size)
    inside = torch.ones_like(numbers)
    pad = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    if mode == "zeros":
        numbers, inside = F.pad(numbers, pad), F.pad(inside, pad)
    else:
        numbers = F.pad(numbers.double(), pad, mode=mode).long()
        inside = torch.ones_like(numbers)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    for axis, (span, step, gap) in enumerate(zip(spans, stride, dilation, strict=True)):
        numbers = numbers.unfold(2 + axis, span, step)[..., ::gap]
        inside = inside.unfold(2 + axis, span, step)[..., ::gap]
    grid = tuple(numbers.shape[2 : 2 + len(size)])
    taps = math.prod(kernel)
    return grid, numbers.reshape(-1, taps), inside.reshape(-1, taps).bool()


def unfolding(module: nn.Module, size: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Return a convolution's output grid, and where each tap of each output position reads.

    The last two, (positions, taps), are positions of the flattened input map of this `size`, and
    whether they lie inside it rather than in zero padding.
    """
    assert isinstance(module, CONVOLUTIONS)
    pads = module._reversed_padding_repeated_twice  # last axis first, (before, after) each
    return _geometry(
        size,
        tuple(module.kernel_size),
        tuple(module.stride),
        tuple(module.dilation),
        tuple(reversed(pads[::2])),
        tuple(reversed(pads[1::2])),
        module.padding_mode,
    )


def _pool(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Average maps (B, C, *spatial) to a grid, of one, two or three axes."""
    pools: tuple[Any, ...] = (
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
    )
    pooled: Tensor = pools[len(grid) - 1](maps, grid)
    return pooled


def _rows(x: Tensor, consumer: Consumer, sampling: Sampling) -> Samples:
    """Return a linear layer's rows; k positions that share a feature are k samples of it."""
    positions = consumer.positions
    plain = positions.size == consumer.incoming == len(positions)
    if not plain:
        index = torch.from_numpy(positions).to(x.device)
        if positions.shape[1] > 1:
            x = x[:, index]  # (B, F·k) → (B, F, k)
            if sampling.kind in ("flatten", "dual"):
                return Samples(x.flatten(1).unsqueeze(-1), cells=positions.shape[1])
            return Samples(x)
        x = x[..., index[:, 0]]
    return Samples(x.unsqueeze(-1) if x.dim() == 2 else x.flatten(1, -2).transpose(1, 2))
