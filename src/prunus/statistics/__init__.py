"""One pass over the data, mergeable float64 sums of every consumer's input."""

from prunus.statistics.collect import Statistics, collect
from prunus.statistics.scatter import Scatter

__all__ = ["Scatter", "Statistics", "collect"]
