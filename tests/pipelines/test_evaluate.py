"""The interval of an accuracy, from its definition."""

import math

import pytest

from prunus.pipelines.evaluate import wilson


@pytest.mark.parametrize(("share", "count"), [(0.5, 100), (0.98, 359), (0.0, 20), (1.0, 20)])
def test_wilson_ends_where_the_share_is_just_not_rejected(share: float, count: int) -> None:
    """At either end q the share lies 1.96 standard errors of q away: [Wilson]."""
    z = 1.959963984540054
    low, high = wilson(share, count)
    assert low <= share <= high
    for q in (low, high):
        assert abs(share - q) == pytest.approx(z * math.sqrt(q * (1 - q) / count), abs=1e-6)
