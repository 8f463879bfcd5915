"""Milliseconds of each layer at any width, on this machine: `LatencyTable`.

T(plan) = rest + Σ_layers t_layer(out, in) + Σ_selections g_layer(in): each layer's t is timed in
isolation at a small grid of widths and interpolated bilinearly; g is the time to select the inputs
of a layer that reads fewer than it receives; `rest` is the remaining time of the measured network.
Source: the idea of a latency table is that of [HALP]; grid, running maximum,
selections and `rest` are our reconstructions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from prunus.core import DataError, parse_json, to_json
from prunus.evaluation.latency.steps import WidthSteps, read_time, read_width

__all__ = ["Grid", "LatencyTable"]

FORMAT = 2


@dataclass(frozen=True)
class Grid:
    """Milliseconds of one call of one layer at chosen widths.

    Attributes:
        outs: output widths, increasing; shape (O,).
        ins: input widths, increasing; shape (I,). A single width stands for all (depthwise).
        ms: shape (O, I), non-decreasing along both axes.
    """

    outs: tuple[int, ...]
    ins: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    @classmethod
    def monotone(cls, outs: tuple[int, ...], ins: tuple[int, ...], ms: list[list[float]]) -> Grid:
        """Return the grid with each time raised to the maximum of all narrower ones.

        So a narrower layer never costs more, despite noise in the timings.
        """
        risen = [list(row) for row in ms]
        for o in range(len(outs)):
            for i in range(len(ins)):
                below = risen[o - 1][i] if o else 0.0
                left = risen[o][i - 1] if i else 0.0
                risen[o][i] = max(risen[o][i], below, left)
        return cls(outs, ins, tuple(map(tuple, risen)))

    def at(self, out: int, in_: int) -> float:
        """Return the milliseconds at `out`×`in_`: bilinear inside the grid, its edge outside."""
        o, u = _place(self.outs, out)
        i, v = _place(self.ins, in_)
        below = self._along(o, i, v)
        return _between(below, self._along(o + 1, i, v), u) if u else below

    def _along(self, o: int, i: int, v: float) -> float:
        row = self.ms[o]
        return _between(row[i], row[i + 1], v) if v else row[i]

    def scaled(self, factor: float) -> Grid:
        """Return the grid with every time multiplied by `factor`."""
        return Grid(self.outs, self.ins, tuple(tuple(t * factor for t in row) for row in self.ms))


@dataclass(frozen=True)
class LatencyTable:
    """The latency of one network, layer by layer, measured on one machine.

    Attributes:
        grids: a `Grid` for each distinct layer and input size, by a key that describes it.
        layers: the keys of each layer's calls in one forward pass, by module name; none for a
            layer that only runs in training.
        rest: milliseconds of everything but layers; assumed to be constant.
        batch: images per forward pass; all times are per batch.
        threads: threads PyTorch used.
        machine: name of the processor.
        selections: the keys of the input selections (grids with one output), by the name of each
            layer that may read fewer features than it receives.
        steps: the costliest layers at consecutive widths; empty if that was not requested, or no
            prunable layer is wide enough.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> table = prunus.measure_latency_table(net, groups, torch.zeros(1, 4), repeats=3)
        >>> sorted(table.layers), table.ms("0", 8, 4) > 0
        (['0', '2'], True)
    """

    grids: Mapping[str, Grid]
    layers: Mapping[str, tuple[str, ...]]
    rest: float
    batch: int
    threads: int
    machine: str
    selections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    steps: tuple[WidthSteps, ...] = ()

    def ms(self, layer: str, out: int, in_: int, arriving: int | None = None) -> float:
        """Return the milliseconds per batch of `layer` with `out` and `in_` channels left.

        If more are `arriving` than it reads, that includes their selection. Apart from rounding,
        it never decreases as either width grows, except at full input width, where the selection
        is no longer needed.

        Raises:
            DataError: the table was measured on a network without that layer.
        """
        try:
            keys = self.layers[layer]
        except KeyError:
            raise DataError(
                f"the latency table has no layer {layer!r}: it was measured on another network; "
                "measure a table of this network"
            ) from None
        spent = sum(self.grids[key].at(out, in_) for key in keys)
        if arriving is not None and in_ < arriving:
            spent += sum(self.grids[key].at(1, in_) for key in self.selections.get(layer, ()))
        return spent

    def to_json(self) -> str:
        """Return the table as JSON; equal tables give equal bytes."""
        return to_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """Read what `to_json` wrote.

        Raises:
            DataError: the text is not a latency table, or has an unknown format version.
        """
        try:
            body = parse_json(text)
            version = body.pop("format")
            if version != FORMAT:
                raise DataError(
                    f"latency table of format {version}, this Prunus reads format {FORMAT}: "
                    "measure it again"
                )
            grids = {key: _grid(value) for key, value in body["grids"].items()}
            layers, selections = (
                {name: tuple(keys) for name, keys in body[part].items()}
                for part in ("layers", "selections")
            )
            asked = (*layers.values(), *selections.values())
            if not all(isinstance(key, str) for keys in asked for key in keys):
                raise ValueError("the keys of a layer are the names of grids")
            missing = {key for keys in asked for key in keys} - set(grids)
            if missing:
                raise DataError(f"the latency table has no grid {min(missing)!r}: measure it again")
            return cls(
                grids,
                layers,
                read_time(body["rest"]),
                read_width(body["batch"]),
                read_width(body["threads"]),
                str(body["machine"]),
                selections,
                tuple(map(WidthSteps.from_json, body["steps"])),
            )
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"not a latency table of Prunus ({error}): give the output of LatencyTable.to_json"
            ) from error


def _place(knots: tuple[int, ...], width: int) -> tuple[int, float]:
    """Return the knot at or below `width` and the relative distance to the next, in [0, 1)."""
    if width <= knots[0]:
        return 0, 0.0
    if width >= knots[-1]:
        return len(knots) - 1, 0.0
    low = bisect_right(knots, width) - 1
    return low, (width - knots[low]) / (knots[low + 1] - knots[low])


def _between(low: float, high: float, share: float) -> float:
    return min(high, low + (high - low) * share)


def _grid(body: dict[str, Any]) -> Grid:
    grid = Grid(
        tuple(map(read_width, body["outs"])),
        tuple(map(read_width, body["ins"])),
        tuple(tuple(map(read_time, row)) for row in body["ms"]),
    )
    if any(a >= b for widths in (grid.outs, grid.ins) for a, b in pairwise(widths)):
        raise ValueError("the widths of a grid do not rise")
    shape = {len(row) for row in grid.ms}
    if len(grid.ms) != len(grid.outs) or shape != {len(grid.ins)}:
        raise ValueError("the times of a grid do not match its widths")
    return grid
