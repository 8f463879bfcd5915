"""BatchNorm statistics estimated anew."""

import copy

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError
from prunus.surgery import reestimate_batchnorm_
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


@pytest.mark.parametrize("shrink", [0.0, 0.25, 1.0])
def test_shrinkage_keeps_a_share_of_the_old_statistics(shrink: float) -> None:
    old, new, mixed = build("residual"), build("residual"), build("residual")
    reestimate_batchnorm_(new, batches())
    assert reestimate_batchnorm_(mixed, batches(), shrink=shrink) == 2
    for name in ("running_mean", "running_var"):
        expected = (1 - shrink) * new.bn2.get_buffer(name) + shrink * old.bn2.get_buffer(name)
        torch.testing.assert_close(mixed.bn2.get_buffer(name), expected)


@pytest.mark.parametrize("shrink", [-0.1, 1.5, float("nan")])
def test_shrinkage_is_a_share(shrink: float) -> None:
    with pytest.raises(ConfigError, match=r"shrink is .* in \[0, 1\]"):
        reestimate_batchnorm_(build("residual"), batches(), shrink=shrink)


def test_it_gives_the_norms_input_the_dense_mean_and_deviation() -> None:
    """theory.md (68): x ← (x − μ_p)σ_d/σ_p + μ_d before the norm is re-estimation of the norm."""
    model = build("plain").double()
    model.bn1.eps = 1e-15
    x = images(64).double()
    with torch.no_grad():
        mean, var = model.bn1.running_mean.clone(), model.bn1.running_var.clone()
        made = model.conv1(x)
        mu, sigma = (f((0, 2, 3))[:, None, None] for f in (made.mean, made.std))
        matched = (made - mu) * var.sqrt()[:, None, None] / sigma + mean[:, None, None]
        expected = model.bn1(matched)
        reestimate_batchnorm_(model, [(x, torch.zeros(64))])
        torch.testing.assert_close(model.bn1(made), expected)


def test_norms_that_do_not_run_keep_their_statistics() -> None:
    model = build("residual")
    model.extra = nn.BatchNorm2d(3)
    model.extra.running_mean += 2.0
    assert reestimate_batchnorm_(model, batches(), shrink=0.5) == 2
    assert model.extra.running_mean.tolist() == [2.0, 2.0, 2.0]
