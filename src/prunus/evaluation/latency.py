"""CPU latency of two networks, measured in turn so that both meet the same machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Latency", "compare_latency"]


@dataclass(frozen=True)
class Latency:
    """Seconds a batch: the median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Summarise at least two timings."""
        low, median, high = statistics.quantiles(seconds, n=4)
        return cls(median, low, high)


def compare_latency(
    first: nn.Module,
    second: nn.Module,
    example: Tensor,
    *,
    repeats: int = 30,
    seconds: float = 5.0,
) -> tuple[Latency, Latency, float]:
    """Time both networks on `example`, on the CPU, in eval mode.

    They run A B A B … after a warm-up, at least 5 and at most `repeats` rounds and about
    `seconds`; the ratio is the median of first ÷ second round by round, so a machine that
    slows down half-way slows both.
    """
    networks = [first.cpu().eval(), second.cpu().eval()]
    example = example.cpu()
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for network in networks * 2:
            network(example)
        start = time.perf_counter()
        for done in range(repeats):
            if done >= 5 and time.perf_counter() - start > seconds:
                break
            for network, spent in zip(networks, times, strict=True):
                begin = time.perf_counter()
                network(example)
                spent.append(time.perf_counter() - begin)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return Latency.of(times[0]), Latency.of(times[1]), ratio
