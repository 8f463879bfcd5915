"""Latency of several calls, measured alternately under the same conditions."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from prunus.core import ConfigError

__all__ = ["LEAST_ROUNDS", "Comparison", "Estimate", "compare_latency"]

#: Fewer rounds have no 95 % interval of their median.
LEAST_ROUNDS = 6
#: A call of this duration or more needs no untimed call to warm the caches.
LONG = 0.05


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Return the median of x₁ … xₙ and the order statistics x₍ₖ₎ and x₍ₙ₊₁₋ₖ₎ around it.

        k is the largest with 2·P(Bin(n, ½) < k) ≤ 5 %. Values are assumed to be independent, with
        no assumption about their distribution: rounds that a busy machine slows down together make
        the interval too narrow. Source: [David-Nagaraja, section 7.1].

        Raises:
            ConfigError: there are fewer than 6 values.
        """
        n = len(values)
        if n < LEAST_ROUNDS:
            raise ConfigError(
                f"{n} rounds given, expected at least {LEAST_ROUNDS}: fewer have no 95 % interval"
            )
        k, tail = 0, 0.5**n  # tail = P(Bin(n, ½) < k + 1)
        while 2 * tail <= 0.05:
            k += 1
            tail += math.comb(n, k) * 0.5**n
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[k - 1], ordered[n - k])


@dataclass(frozen=True)
class Comparison:
    """Durations of calls by name and round: `seconds[name]` has shape (rounds,)."""

    seconds: Mapping[str, tuple[float, ...]]

    @property
    def rounds(self) -> int:
        """How often each call was timed."""
        return len(next(iter(self.seconds.values())))

    def latency(self, name: str) -> Estimate:
        """Return the seconds of one call."""
        return Estimate.of(self.seconds[name])

    def speedup(self, before: str, after: str) -> Estimate:
        """Return time of `before` ÷ time of `after`: the median of the ratios round by round.

        A machine that slows down midway slows both sides of a ratio.
        """
        pairs = zip(self.seconds[before], self.seconds[after], strict=True)
        return Estimate.of([a / b for a, b in pairs])


def compare_latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 50,
    seconds: float = 3.0,
) -> Comparison:
    """Time `calls` alternately, in inference mode.

    After a warm-up of two rounds they run A B C, C B A, A B C …, so that a drift of the machine
    affects all equally; at least 6 and at most `rounds` rounds, and about `seconds`. A call shorter
    than 50 ms runs once untimed before it is timed: a deployed network finds caches and memory as
    its own last call left them, not as another network did.

    Compare networks within one runtime only: the threads of one runtime may still be spinning when
    another one starts.

    Raises:
        ConfigError: `rounds` is below 6, or there is nothing to time.
    """
    if rounds < LEAST_ROUNDS or not calls:
        raise ConfigError(
            f"rounds={rounds} of {len(calls)} calls: expected at least {LEAST_ROUNDS} rounds of "
            "at least one call"
        )
    spent: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        warm = [{name: _time(call) for name, call in calls.items()} for _ in range(2)][-1]
        start = time.perf_counter()
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
                break
            for name in list(calls) if done % 2 == 0 else list(calls)[::-1]:
                if warm[name] < LONG:
                    calls[name]()
                spent[name].append(_time(calls[name]))
    return Comparison({name: tuple(values) for name, values in spent.items()})


def _time(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
