"""One pass over the data, mergeable float64 sums of every consumer's input."""

from prunus.statistics.all_reduce import all_reduce_
from prunus.statistics.collect import collect
from prunus.statistics.dual import Dual
from prunus.statistics.factor import Factor
from prunus.statistics.outputs import Output
from prunus.statistics.ranks import broadcast_model_, rank_and_size
from prunus.statistics.sampling import (
    Samples,
    Sampling,
    draw_places,
    kernel_taps,
    patches,
    unfolding,
)
from prunus.statistics.scatter import Scatter
from prunus.statistics.sketch import Sketch
from prunus.statistics.statistics import Statistics
from prunus.statistics.teacher import Classes, Logits, Targets, Teacher
from prunus.statistics.traces import TRACE_RULES, Trace, Traces, trace_utility

__all__ = [
    "TRACE_RULES",
    "Classes",
    "Dual",
    "Factor",
    "Logits",
    "Output",
    "Samples",
    "Sampling",
    "Scatter",
    "Sketch",
    "Statistics",
    "Targets",
    "Teacher",
    "Trace",
    "Traces",
    "all_reduce_",
    "broadcast_model_",
    "collect",
    "draw_places",
    "kernel_taps",
    "patches",
    "rank_and_size",
    "trace_utility",
    "unfolding",
]
