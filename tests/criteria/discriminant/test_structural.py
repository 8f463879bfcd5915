"""Structural energy: deleterious units, by a given λ and by the noise of chance."""

import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError
from prunus.criteria import deleterious, score
from prunus.criteria.discriminant.structural import calibrate
from prunus.graph import find_groups
from prunus.statistics import Statistics, collect
from tests.criteria.oracles import RIDGE, discriminant_information, standardised, without
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import drawn, teacher


@pytest.mark.parametrize("lam", [1e-4, 1e-2, 0.05, 10.0])
def test_removing_deleterious_units_raises_the_energy(lam: float) -> None:
    """E_S = DI − λ‖a‖₀, evaluated after every removal [Kung-Hou, eq. 16–18]."""
    model, loader = build("mlp").double(), [(x.double(), y) for x, y in batches(6, 16)]
    groups = find_groups(model, images(1).double())
    statistics = collect(model, loader, groups)
    x, labels = drawn(model, loader, "fc3", "pixel")
    X, Y, rho = standardised(x), teacher(labels, CLASSES), RIDGE * len(x)

    def energy(gone: list[int]) -> float:
        return discriminant_information(without(X, gone), Y, rho) - lam * (8 - len(gone))

    units = deleterious(groups, statistics, lam, ridge=RIDGE)["fc2"].tolist()
    path = [energy(units[:n]) for n in range(len(units) + 1)]
    assert path == sorted(path)
    left = [u for u in range(8) if u not in units]
    assert all(energy([*units, u]) <= path[-1] + 1e-12 for u in left)
    costs = score(groups, statistics, "structural", lam=lam, ridge=RIDGE)["fc2"].costs
    di = score(groups, statistics, "di", ridge=RIDGE)["fc2"].costs
    torch.testing.assert_close(costs, di * discriminant_information(X, Y, rho) / lam)


def informed(noise_units: int, count: int, positions: int = 1) -> tuple[nn.Module, list]:
    """A layer of 4 units that see the label, and others that see noise."""
    generator = torch.Generator().manual_seed(0)
    units = 4 + noise_units
    model = nn.Sequential(nn.Conv2d(units, units, 1), nn.Conv2d(units, 3, 1), nn.Flatten(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(units)[:, :, None, None])
        model[0].bias.zero_()
    loader = []
    for _ in range(count // 16):
        y = torch.randint(0, 3, (16,), generator=generator)
        x = torch.randn(16, units, 1, 1, generator=generator)
        x[:, :3, 0, 0] += 2 * torch.eye(3)[y]
        x[:, 3, 0, 0] += y
        x = x.expand(-1, -1, positions, 1) + 0.1 * torch.randn(
            16, units, positions, 1, generator=generator
        )
        loader.append((x, y))
    return model, loader


def statistics_of(model: nn.Module, loader: list, blocks: int = 8) -> Statistics:
    groups = find_groups(model, loader[0][0][:1])
    return collect(model, loader, groups, teacher=3, blocks=blocks)


@pytest.mark.parametrize("positions", [1, 9])
@pytest.mark.parametrize("blocks", [1, 8])
def test_calibrated_lambda_tells_noise_from_what_discriminates(positions: int, blocks: int) -> None:
    """Nine identical positions of an image are one sample, not nine."""
    model, loader = informed(20, 640, positions)
    statistics = statistics_of(model, loader, blocks)
    units = set(deleterious(statistics.groups, statistics)["0"].tolist())
    assert len(units & set(range(4, 24))) >= 18
    assert not units & {0, 1, 2}


def test_lambda_lies_between_the_chance_of_samples_and_of_images() -> None:
    model, loader = informed(20, 640, 9)
    statistics = statistics_of(model, loader)
    group = statistics.groups["0"]
    lam = calibrate(statistics.groups, group, statistics)
    chance = 5.99 / 2  # χ² of two degrees of freedom: its 95 % quantile over its mean
    assert chance * 2 / (640 * 9 - 1) < lam <= chance * 2 / 639 * 1.001
    one_block = calibrate(statistics.groups, group, statistics_of(model, loader, blocks=1))
    assert one_block == pytest.approx(chance * 2 / 639, rel=1e-3)
    # Shuffled labels: the ΔDI of all units, on average, is what one says by chance.
    generator = torch.Generator().manual_seed(1)
    shuffled = [(x, torch.randint(0, 3, (16,), generator=generator)) for x, _ in loader]
    noise = statistics_of(model, shuffled)
    mean = float(score(noise.groups, noise, "structural", lam=1.0)["0"].costs.mean())
    assert 0.5 < mean / (2 / 639) < 1.5


def test_lambda_may_be_given_by_group() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups)
    lams = {g.name: 0.01 * (i + 1) for i, g in enumerate(groups.values())}
    scores = score(groups, statistics, "structural", lam=lams)
    for name, lam in lams.items():
        one = score(groups, statistics, "structural", lam=lam)[name]
        assert torch.equal(scores[name].costs, one.costs)
    with pytest.raises(ConfigError, match="no λ for group"):
        score(groups, statistics, "structural", lam={"fc1": 1.0})
    for bad in ({"lam": 0.0}, {"lam": {"fc1": -1}}, {"level": 1.0}):
        with pytest.raises(ConfigError, match="expected"):
            score(groups, statistics, "structural", **bad)
