"""BatchNorm statistics estimated anew."""

import copy

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import DataError
from prunus.graph import find_groups
from prunus.plan import plan_units
from prunus.surgery import apply_, reestimate_batchnorm_
from tests.graph.nets import batches, build, images


def test_running_statistics_are_the_average_over_batches() -> None:
    model = build("plain")
    loader = batches(4, 8)
    with torch.no_grad():
        made = [model.conv1(x) for x, _ in loader]
    mean = torch.stack([m.mean((0, 2, 3)) for m in made]).mean(0)
    var = torch.stack([m.var((0, 2, 3)) for m in made]).mean(0)  # PyTorch's: unbiased
    assert reestimate_batchnorm_(model, loader) == 1
    torch.testing.assert_close(model.bn1.running_mean, mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, var, atol=1e-6, rtol=1e-5)
    assert reestimate_batchnorm_(model, loader, batches=1) == 1
    torch.testing.assert_close(model.bn1.running_mean, made[0].mean((0, 2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_momentum_come_back(training: bool) -> None:
    model = build("residual").train(training)
    model.bn1.momentum = 0.3
    model.bn2.eval()
    modes = [m.training for m in model.modules()]
    weights = copy.deepcopy(dict(model.named_parameters()))
    assert reestimate_batchnorm_(model, batches()) == 2
    assert [m.training for m in model.modules()] == modes
    assert (model.bn1.momentum, model.bn2.momentum) == (0.3, 0.1)
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())


def test_dropout_stays_off() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.drop(x))

    class Parametrised(Dropped):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

    model = Parametrised().train()
    loader = batches(1, 16)
    reestimate_batchnorm_(model, loader)
    torch.testing.assert_close(model.norm.running_mean, loader[0][0].mean((0, 2, 3)))
    assert model.drop.training


@pytest.mark.parametrize("loader", [[], [(images(1), torch.zeros(1, dtype=torch.int64))]])
def test_without_a_batch_the_old_statistics_stay(loader: list[tuple[Tensor, Tensor]]) -> None:
    model = build("residual").train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="at least one batch of two images"):
        reestimate_batchnorm_(model, loader)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.bn1.momentum == 0.1
    assert model.bn1.training


def test_networks_without_norms() -> None:
    assert reestimate_batchnorm_(build("mlp"), batches()) == 0
    model = build("plain")
    model.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    assert reestimate_batchnorm_(model, batches()) == 0


def test_apply_counts_them_in_its_receipt() -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    receipt = apply_(model, plan_units(groups, {"conv1": [0]}), loader=batches())
    assert receipt.batchnorms == 2
    assert receipt.repairs == ()
    assert receipt.channels == {
        "conv1": {"out": (5, 4)},
        "bn1": {"out": (5, 4)},
        "conv2": {"in": (5, 4)},
    }
