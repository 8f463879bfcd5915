"""The interval of an accuracy, from its definition and from its closed form."""

import math

import pytest

from prunus.pipelines.evaluate import wilson

Z = 1.959963984540054  # two-sided 95 % point of the normal distribution


@pytest.mark.parametrize(("right", "count"), [(50, 100), (352, 359), (0, 20), (20, 20)])
def test_wilson_ends_where_the_share_is_just_not_rejected(right: int, count: int) -> None:
    """At either end q the share lies 1.96 standard errors of q away: [Wilson]."""
    share = right / count
    low, high = wilson(share, count)
    assert low <= share <= high
    for q in (low, high):
        assert abs(share - q) == pytest.approx(Z * math.sqrt(q * (1 - q) / count), abs=1e-6)


def closed_form(share: float, count: int) -> tuple[float, float]:
    """Return both ends q of |share − q| = z·√(q(1 − q)/count), theory.md (47)."""
    square = Z**2 / count
    middle = share + square / 2
    reach = Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (middle - reach) / (1 + square), (middle + reach) / (1 + square)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 359, 10_000, 50_000])
def test_wilson_is_its_closed_form(count: int) -> None:
    for right in sorted({0, 1, count // 3, count // 2, (97 * count) // 100, count - 1, count}):
        found = wilson(right / count, count)
        assert found == pytest.approx(closed_form(right / count, count), abs=1e-12)
        assert all(type(end) is float for end in found)  # plain numbers for JSON
