"""Time of a layer at consecutive widths, and the extra cost of uneven widths: `WidthSteps`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MULTIPLES", "STRETCH", "WidthSteps", "excess_shares", "read_time", "read_width"]

#: Candidate multiples, smallest first; each divides the last.
MULTIPLES = (4, 8, 16)
#: Channels from the first to the last width; both are multiples of it.
STRETCH = MULTIPLES[-1]
RESAMPLES = 1_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WidthSteps:
    """Milliseconds of one layer at 17 consecutive widths, from one multiple of 16 to the next.

    Attributes:
        layer: description of the layer at full width.
        calls: how often it runs in one forward pass.
        outs: its output widths, shape (17,); constant if the output is not pruned.
        ins: its input widths, likewise.
        ms: shape (rounds, 17): the widths were timed alternately.
    """

    layer: str
    calls: int
    outs: tuple[int, ...]
    ins: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> WidthSteps:
        """Create it from its fields in JSON."""
        steps = cls(
            str(body["layer"]),
            read_width(body["calls"]),
            tuple(map(read_width, body["outs"])),
            tuple(map(read_width, body["ins"])),
            tuple(tuple(map(read_time, row)) for row in body["ms"]),
        )
        if not steps.ms:
            raise ValueError("a layer's steps have no times")
        if {len(row) for row in (steps.outs, steps.ins, *steps.ms)} != {STRETCH + 1}:
            raise ValueError("the times of a layer's steps do not match its widths")
        return steps


def read_width(value: Any) -> int:
    """Return a number of channels, layers, images or threads that a table holds in JSON."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{repr(value)[:40]} where a whole number is expected")
    return value


def read_time(value: Any) -> float:
    """Return milliseconds that a table holds in JSON."""
    if type(value) not in (int, float) or not 0 <= value < 1e30:
        raise ValueError(f"{repr(value)[:40]} where milliseconds are expected")
    return float(value)


def excess_shares(stretches: Sequence[WidthSteps]) -> dict[int, Floats]:
    """Return, by multiple, the extra cost of widths between multiples, as a share.

    Σ_layers calls · mean_w [t(w) − t̂(w)] ÷ Σ_layers calls · mean_w t(w), where t(w) is the lower
    quartile over rounds (other load on the machine only ever adds time) and t̂ the straight line
    between the multiples below and above w. It is 0 if time is proportional to width, and positive
    if time rises in steps or an uneven width has a slower kernel.

    Each array has shape (1 + 1 000,): all rounds, then bootstrap samples of the rounds
    [Efron-Tibshirani, chapter 6], with a fixed seed; sample s is the same for every multiple.
    """
    draw = np.random.default_rng(0)
    excess = {multiple: np.zeros(1 + RESAMPLES) for multiple in MULTIPLES}
    whole = np.zeros(1 + RESAMPLES)
    for one in stretches:
        ms = np.array(one.ms)  # (R, 17)
        picked = draw.integers(len(ms), size=(RESAMPLES, len(ms)))
        every, sampled = (np.quantile(x, 0.25, axis=-2) for x in (ms, ms[picked]))
        t = np.vstack([every, sampled])  # (1 + S, 17)
        whole += one.calls * t.mean(axis=1)
        for multiple in MULTIPLES:
            excess[multiple] += one.calls * (t - _lines(t, multiple)).mean(axis=1)
    return {multiple: total / whole for multiple, total in excess.items()}


def _lines(t: Floats, multiple: int) -> Floats:
    """Return times (…, 17) with those between multiples interpolated linearly."""
    at = np.arange(STRETCH + 1)
    return np.stack([np.interp(at, at[::multiple], row[::multiple]) for row in t])
