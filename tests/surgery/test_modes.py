"""Steps within `torch.no_grad()` and `torch.inference_mode()`: they make no difference."""

from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

import prunus

LOADER = [(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)] * 2


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_every_step_works_within_it(around: type[AbstractContextManager[None]]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    before = [p.clone() for p in net.parameters()]
    with around():
        groups = prunus.find_groups(net, LOADER[0][0][:1])
        statistics = prunus.collect(net, LOADER, groups, gradients=True)
        plan = prunus.make_plan(groups, prunus.score(groups, statistics, "taylor"), "macs=60%")
        receipt = prunus.apply_(net, plan, statistics, loader=LOADER)
        prunus.fit_(net, LOADER, config=prunus.TrainConfig(epochs=1))
        prunus.undo_(net, receipt)
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
    net(LOADER[0][0]).sum().backward()
    assert net[0].weight.grad is not None
