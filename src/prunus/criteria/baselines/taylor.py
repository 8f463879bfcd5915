"""First-order Taylor expansion: the effect of removing a unit according to the gradient."""

from __future__ import annotations

import torch

from prunus.core import ConfigError
from prunus.criteria.gather import gather
from prunus.criteria.scores import CRITERIA, GroupScore, NotScoredError
from prunus.graph import Group, Groups
from prunus.statistics import Statistics

__all__ = ["Taylor"]


@CRITERIA.register("taylor")
class Taylor:
    """Θ_i = (1/N)·Σ_n |Σ_positions a_i·∂L/∂a_i|, the first-order change of the loss without i.

    [Taylor, eq. 8], theory.md (36), without their division by the number of positions: L is the
    loss of one image. a is what the consumers read. The positions of a flattened map are features
    of their own there, so a channel gets the sum of their |·|. Several consumers are averaged, not
    added: each one's gradient is the total gradient of the tensor that it reads.
    """

    unit = "first-order change of the loss of an image"
    comparable = True
    needs_statistics = True
    needs = frozenset({"gradients"})

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group.

        Raises:
            ConfigError: the statistics were collected without gradients.
            NotScoredError: no consumer's gradient was collected.
        """
        if all(output.taylor is None for output in statistics.outputs.values()):
            raise ConfigError(
                "criterion 'taylor' needs gradients, but these statistics have none: collect with "
                "gradients=True"
            )
        total = torch.zeros(group.units, dtype=torch.float64)
        consumers = 0
        for member in group.consumers:
            output = statistics.outputs.get(member.module)
            if output is None or output.taylor is None:
                continue
            blocks = groups.consumers[member.module].blocks(member.index)
            total += gather(output.taylor, blocks).sum(1)
            consumers += 1
        if not consumers:
            raise NotScoredError(
                "no consumer's gradient was collected: it is too wide, or did not run"
            )
        return GroupScore.of(total / (consumers * max(statistics.images, 1)))
