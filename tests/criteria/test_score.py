"""Why a criterion leaves groups out: `Scores.skipped`, and what a budget says then."""

import pytest
import torch
from torch import Tensor, nn

from prunus.core import BudgetError
from prunus.criteria import score
from prunus.graph import find_groups
from prunus.plan import make_plan
from prunus.statistics import collect


class Recurrent(nn.Module):
    """What `c` makes is read by a GRU alone, which has no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.gru, self.head = nn.Linear(4, 40), nn.GRU(40, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.c(x).relu().transpose(0, 1))[0][-1])


def test_a_group_that_only_a_parameter_reads_is_named_in_the_budgets_error() -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(8, 5, 4)
    groups = find_groups(model, x[:1], inputs=False)
    statistics = collect(model, [(x, torch.arange(8) % 3)], groups)
    scores = score(groups, statistics, "fdr")
    reason = (
        "only gru.weight_ih_l0 reads it, and no statistics are kept of that: criterion l1 or l2 "
        "scores it"
    )
    assert scores.skipped == {"c": reason}
    with pytest.raises(BudgetError, match=rf"criterion 'fdr' does not score c \({reason}\)"):
        make_plan(groups, scores, "params=60%")
    assert make_plan(groups, score(groups, None, "l1"), "params=60%").groups["c"].removed
