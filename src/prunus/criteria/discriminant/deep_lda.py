"""Deep LDA: the contribution of a unit to the separation of classes at the end of the network."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.core import ConfigError
from prunus.criteria.gather import gather
from prunus.criteria.scores import CRITERIA, GroupScore, NotScoredError
from prunus.graph import Group, Groups
from prunus.statistics import Statistics, Trace

__all__ = ["DeepLDA"]


@CRITERIA.register("deep_lda")
class DeepLDA:
    """u_c/s: traced utility of a channel, in standard deviations s of its layer's.

    [Tian, eq. 3.11–3.13], theory.md (44): u_c = max over positions of the mean over images of the
    utility traced back from the chosen dimensions of the last hidden layer (`trace_utility`), s the
    standard deviation of the layer's utilities other than 0. A unit is removed if u_c < η·s, with
    one η for all layers, so values of all groups share a scale, and the `threshold` allocation cuts
    as in the thesis. A unit with several features gets the largest value; so does one with several
    consumers, each measured in its own s (the thesis has one consumer per layer). The chosen
    dimensions themselves are removed last: they were chosen by v_j, whatever their scale. Input
    pixels are not scored: deconvolution shows what a filter would respond to there, even where
    images are always black (docs/results.md).
    """

    unit = "traced utility, in standard deviations of the layer's (η)"
    comparable = True
    needs_statistics = True
    needs = frozenset({"traces"})

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group.

        Raises:
            ConfigError: the statistics hold no traces.
            NotScoredError: the trace reached no consumer, or the units are input pixels.
        """
        if group.kind == "inputs":
            raise NotScoredError(
                "a trace shows what filters respond to in pixels, not what the images contain"
            )
        traces = statistics.traces
        if traces is None:
            raise ConfigError(
                "criterion 'deep_lda' needs traces, but these statistics have none: collect, then "
                "statistics.with_traces(trace_utility(model, loader, groups, dimensions))"
            )
        best = torch.zeros(group.units, dtype=torch.float64)
        reached = 0
        for member in group.consumers:
            if member.module not in traces:
                continue
            values = _in_deviations(traces[member.module])
            if member.module == traces.head:
                values[list(traces.dimensions)] = 1 + max(
                    float(_in_deviations(trace).max()) for trace in traces.values()
                )
            blocks = groups.consumers[member.module].blocks(member.index)
            best = torch.maximum(best, gather(values, blocks).amax(1))
            reached += 1
        if not reached:
            raise NotScoredError("the trace reached no consumer: it did not run")
        return GroupScore.of(best)


def _in_deviations(trace: Trace) -> Tensor:
    """Return the utilities in units of the layer's standard deviation."""
    return trace.utility / max(trace.spread, 1e-300)
