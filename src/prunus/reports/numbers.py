"""Formatted numbers: grouped thousands, percent, points, ratios, times, sizes.

Spaces inside a number and before its unit are no-break spaces (U+00A0), the minus is U+2212.
"""

from __future__ import annotations

import math

__all__ = [
    "counted",
    "duration",
    "grouped",
    "kept",
    "measure",
    "percent",
    "points",
    "scientific",
    "short",
    "size",
    "speed",
    "speed_between",
    "times",
]

NBSP = "\u00a0"
MINUS = "\u2212"


def grouped(number: float, decimals: int = 0) -> str:
    """Return `number` with grouped thousands.

    Example:
        >>> grouped(431080).replace(NBSP, " ")
        '431 080'
    """
    text = f"{abs(number):,.{decimals}f}".replace(",", NBSP)
    return (MINUS if float(f"{number:.{decimals}f}") < 0 else "") + text


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 layer`, `24 layers`."""
    return f"{grouped(number)} {noun}{'' if number == 1 else 's'}"


def measure(number: float) -> str:
    """Return any number with three digits: `1 250`, `12.5`, `0.00125`, `1.2 × 10⁻⁵`."""
    if number == 0:
        return "0"
    if not 1e-3 <= abs(number) < 1e6:
        return scientific(number)
    return grouped(number, max(0, 2 - math.floor(math.log10(abs(number)))))


def short(number: int) -> str:
    """Return a count for narrow columns: in full below 100 000, then three digits: `1.85 G`.

    Example:
        >>> [short(count).replace(NBSP, " ") for count in (99_999, 999_500, 1_849_688_064)]
        ['99 999', '1.00 M', '1.85 G']
    """
    if number < 10**5:
        return grouped(number)
    mantissa, exponent = f"{number:.2e}".split("e")
    steps, rest = divmod(int(exponent), 3)
    return f"{float(mantissa) * 10**rest:.{2 - rest}f}{NBSP}{'kMGTPE'[steps - 1]}"


def percent(share: float, decimals: int = 2) -> str:
    """Return a share in percent: 0.9861 is `98.61 %`."""
    return f"{grouped(100 * share, decimals)}{NBSP}%"


def points(before: float, after: float) -> str:
    """Return the change of a share in percentage points, signed: `−0.28 points`."""
    change = 100 * (after - before)
    if change == 0:
        return "unchanged"
    if abs(change) < 0.005:
        return f"{'lower' if change < 0 else 'higher'} by less than 0.01{NBSP}points"
    return f"{MINUS if change < 0 else '+'}{abs(change):.2f}{NBSP}points"


def times(ratio: float) -> str:
    """Return a ratio of at least one: `1.04×` when near one, `10.0×`, `250×` when large."""
    decimals = 2 if ratio < 1.095 else 1 if ratio < 99.95 else 0
    return f"{grouped(ratio, decimals)}×"


def kept(before: float, after: float, less: str = "fewer", more: str = "more") -> str:
    """Return how much of `before` is left in `after`: `10.0 % kept, 10.0× fewer`."""
    if before == after:
        return "unchanged"
    if after <= 0 or before <= 0:
        return "none kept" if after <= 0 else "new"
    if after > before:
        return f"{times(after / before)} {more}"
    share = after / before
    return f"{percent(share, 1 if share >= 0.01 else 2)} kept, {times(before / after)} {less}"


def speed(ratio: float) -> str:
    """Return dense time ÷ pruned time in words: `1.8× faster`, `1.2× slower`."""
    if abs(ratio - 1) < 0.005:
        return "same speed"
    return f"{times(ratio)} faster" if ratio > 1 else f"{times(1 / ratio)} slower"


def speed_between(ratio: float, low: float, high: float) -> str:
    """Return dense time ÷ pruned time with its interval: `1.8× faster (1.7–1.9)`.

    An interval that contains 1 shows no difference: `same speed, within noise (0.97–1.04)`.
    """
    if low <= 1 <= high:
        text = "same speed, within noise"
    else:
        text = speed(ratio)
        if ratio < 1:
            low, high = 1 / high, 1 / low
    decimals = 2 if max(abs(low - 1), abs(high - 1)) < 0.995 else 1
    return f"{text} ({grouped(low, decimals)}–{grouped(high, decimals)})"


def duration(median: float, low: float, high: float, unit_of: float) -> str:
    """Return seconds as `1.23 ms (1.10–1.40)`, in the unit that suits `unit_of` seconds."""
    unit, factor = ("s", 1.0) if unit_of >= 1 else ("ms", 1e3) if unit_of >= 1e-4 else ("µs", 1e6)
    value = median * factor
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    low_text, high_text = (grouped(bound * factor, decimals) for bound in (low, high))
    return f"{grouped(value, decimals)}{NBSP}{unit} ({low_text}–{high_text})"


def size(count: int, unit_of: int) -> str:
    """Return bytes as `1 683.9 KiB`, in the unit that suits `unit_of` bytes."""
    unit, factor = ("MiB", 2**20) if unit_of >= 10 * 2**20 else ("KiB", 2**10)
    return f"{grouped(count / factor, 1)}{NBSP}{unit}"


def scientific(number: float) -> str:
    """Return a small number as `3.0 × 10⁻⁷`."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}{NBSP}×{NBSP}10{raised}"
