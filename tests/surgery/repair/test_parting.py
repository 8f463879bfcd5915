"""Networks whose pass depends on the data: repair ends where the cut one takes another path."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from prunus.graph import find_groups
from prunus.plan import plan_units
from prunus.surgery import apply_


class Exits(nn.Module):
    """Two blocks; which layers run behind them depends on `early`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 10, 3)
        self.early, self.late = nn.Linear(8, 4), nn.Linear(10, 4)
        self.whole = 8  # the width of `a` at which the late exit is taken

    def forward(self, x: Tensor) -> Tensor:
        h = self.m(self.a(x).relu()).relu()
        if self.a.out_channels < self.whole:
            return self.early(h.mean((2, 3)))
        return self.late(self.b(h).relu().mean((2, 3)))


class Skips(Exits):
    def forward(self, x: Tensor) -> Tensor:
        h = self.m(self.a(x).relu()).relu()
        if self.a.out_channels < self.whole:  # the cut network runs more than the dense one
            h = h + nn.functional.pad(self.b(h), (1, 1, 1, 1))[:, :8]
        return self.early(h.mean((2, 3)))


@pytest.mark.parametrize("net", [Exits, Skips])
@pytest.mark.parametrize("compensate", ["joint", "patch"])
def test_what_the_other_network_does_not_reach_is_left(net, compensate) -> None:
    torch.manual_seed(0)
    model = net().eval()
    loader = [(torch.randn(64, 3, 10, 10), torch.arange(64) % 4)]
    groups = find_groups(model, loader[0][0][:1])
    plan = plan_units(groups, {"a": [1, 5]})
    untouched = {n: p.clone() for n, p in model.named_parameters() if n.split(".")[0] == "b"}
    threads = threading.active_count()
    receipt = apply_(model, plan, loader=loader, groups=groups, compensate=compensate)
    assert threading.active_count() == threads
    reasons = {r.module: r.reason for r in receipt.repairs}
    assert not reasons["m"]  # it was refitted: both networks run it
    if net is Exits:
        assert "another path" in reasons["b"]
        assert "another path" in reasons["late"]
    for name, tensor in untouched.items():
        assert torch.equal(model.get_parameter(name), tensor)
