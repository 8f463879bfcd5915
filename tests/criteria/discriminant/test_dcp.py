"""DCP in closed form against orthogonal matching pursuit on the samples themselves."""

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.criteria import score
from prunus.criteria.score import make_criterion
from prunus.graph import Groups, find_groups
from prunus.statistics import Statistics, collect
from tests.criteria.oracles import discriminant_information, gain_behind
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import teacher

RIDGE = 1e-2


def setup(net: str, sampling: str) -> tuple[nn.Module, Groups, Statistics]:
    model = build(net)
    groups = find_groups(model, images(1))
    return model, groups, collect(model, batches(6, 16), groups, sampling=sampling)


def samples(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Return the rows that module `name` multiplies its weight with, float64, and their labels."""
    rows, labels = [], []
    module = model.get_submodule(name)
    for x, y in batches(6, 16):
        seen: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model(x)
        handle.remove()
        read = seen[0].double()
        if isinstance(module, nn.Conv2d):
            read = torch.nn.functional.unfold(read, module.kernel_size, padding=module.padding)
            read = read.transpose(1, 2)  # (B, positions, C·taps)
        else:
            read = read[:, None]
        rows.append(read.flatten(0, 1))
        labels.append(y.repeat_interleave(read.shape[1]))
    return torch.cat(rows), torch.cat(labels)


class Slow:
    """L = ‖X(W−V)‖²/‖XW‖² + λ·(ridge classifier's)/DI, on every sample of one consumer."""

    def __init__(self, model: nn.Module, groups: Groups, consumer: str, lam: float) -> None:
        x, y = samples(model, consumer)
        self.cells = x.shape[1] // model.get_submodule(consumer).weight.shape[1]
        x = x - x.mean(0)
        self.scale = x.std(0, correction=0)
        alive = self.scale > 1e-6
        self.scale = torch.where(alive, self.scale, 1.0)
        X, rho = (x / self.scale) * alive, RIDGE * len(x)
        F = X.shape[1]
        W = (
            model.get_submodule(consumer).weight.detach().double().flatten(1).T
            * self.scale[:, None]
        )
        W = W * alive[:, None] * gain_behind(model, groups, consumer)
        Y = teacher(y, CLASSES)
        G = torch.linalg.solve(X.T @ X + rho * torch.eye(F), X.T @ Y.T)
        di = discriminant_information(X.T, Y, rho)
        B = torch.cat([W / (X @ W).norm(), G * (lam / di) ** 0.5], 1)
        self.rows = torch.cat([X, rho**0.5 * torch.eye(F, dtype=torch.float64)])
        self.target = self.rows @ B

    def fit(self, features: list[int]) -> Tensor:
        """Re-solve the weights on `features`; return the residual."""
        if not features:
            return self.target
        A = self.rows[:, features]
        return self.target - A @ torch.linalg.lstsq(A, self.target, driver="gelsd").solution

    def loss(self, features: list[int]) -> float:
        return float(self.fit(features).square().sum())

    def slope(self, chosen: list[int], block: list[int]) -> float:
        """‖∂L/∂W_block‖² of raw weights, up to a factor."""
        E = self.rows[:, block].T @ self.fit(chosen)
        return float((E * self.scale[block, None]).square().sum())


def pursue(consumers: list[tuple[Slow, list[list[int]]]], units: list[int]) -> list[int]:
    """Add the unit with the largest gradient until all of `units` are chosen."""
    chosen: list[int] = []
    while len(chosen) < len(units):
        slopes = {
            u: sum(
                slow.slope([f for c in chosen for f in blocks[c]], blocks[u])
                for slow, blocks in consumers
            )
            for u in units
            if u not in chosen
        }
        chosen.append(max(slopes, key=slopes.__getitem__))
    return chosen


def costs_along(consumers: list[tuple[Slow, list[list[int]]]], order: list[int]) -> list[float]:
    """What L rises by at each unit of a removal order."""
    costs = [0.0] * len(order)
    for place, unit in enumerate(order):
        for slow, blocks in consumers:
            before = [f for u in order[place:] for f in blocks[u]]
            after = [f for u in order[place + 1 :] for f in blocks[u]]
            costs[unit] += slow.loss(after) - slow.loss(before)
    return costs


CASES = {
    "linear": ("mlp", "fc2", {"fc3": 1}, "pixel"),
    "patch": ("plain", "conv1", {"conv2": 9}, "patch"),
    "flattened": ("flatten", "conv1", {"fc1": 16}, "pixel"),
    "two consumers": ("residual", "stem", {"conv1": 9, "head": 1}, "patch"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_matching_pursuit_on_the_samples(case: str, lam: float) -> None:
    net, name, widths, sampling = CASES[case]
    model, groups, statistics = setup(net, sampling)
    units = groups[name].units
    consumers = [
        (Slow(model, groups, consumer, lam), [list(range(u * k, u * k + k)) for u in range(units)])
        for consumer, k in widths.items()
    ]
    got = score(groups, statistics, "dcp", lam=lam, ridge=RIDGE)[name]
    expected = pursue(consumers, list(range(units)))[::-1]
    assert got.order.tolist() == expected
    by_hand = torch.tensor(costs_along(consumers, expected), dtype=torch.float64)
    torch.testing.assert_close(got.costs, by_hand, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_bootstrap_is_dcp_on_what_di_leaves(share: float) -> None:
    model, groups, statistics = setup("mlp", "pixel")
    got = score(groups, statistics, "bootstrap", share=share, ridge=RIDGE)["fc2"]
    by_di = score(groups, statistics, "di", ridge=RIDGE)["fc2"].order.tolist()
    gone = by_di[: int(8 * share)]
    consumers = [(Slow(model, groups, "fc3", 1.0), [[u] for u in range(8)])]
    left = pursue(consumers, [u for u in range(8) if u not in gone])[::-1]
    assert got.order.tolist() == gone + left
    by_hand = torch.tensor(costs_along(consumers, gone + left), dtype=torch.float64)
    torch.testing.assert_close(got.costs, by_hand, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["dcp", "bootstrap"])
def test_costs_along_its_own_order_are_its_costs(name: str) -> None:
    _, groups, statistics = setup("residual", "patch")
    rule = make_criterion(name)
    for group in groups.values():
        got = rule(groups, group, statistics)
        again = rule.along(groups, group, statistics, got.order)  # type: ignore[attr-defined]
        torch.testing.assert_close(again, got.costs, rtol=1e-6, atol=1e-10)


def test_by_pixel_a_convolution_s_taps_are_outputs() -> None:
    """More outputs × taps (6·9) than features (8): the target is folded, nothing changes."""
    model, groups, statistics = setup("plain", "pixel")
    got = score(groups, statistics, "dcp", lam=0.0, ridge=1e-6)["conv1"]
    x = torch.cat([s for s, _ in [samples(model, "conv2")]])
    assert x.shape[1] == 72
    scatter = statistics["conv2"]
    W = model.conv2.weight.detach().double().transpose(0, 1).flatten(1)
    first = (scatter.S @ W).square().sum(1).argmax()
    assert int(got.order[-1]) == int(first)


def test_intervals_follow_the_same_order() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(6, 16), groups, blocks=3)
    got = score(groups, statistics, "dcp", intervals=True)["conv1"]
    assert got.replicates is not None
    rule = make_criterion("dcp")
    for block, replicate in enumerate(got.replicates):
        part = statistics.leave_out(block)
        again = rule.along(groups, groups["conv1"], part, got.order)  # type: ignore[attr-defined]
        torch.testing.assert_close(replicate, again)
    low, high = got.interval()
    assert (low <= got.costs).all()
    assert (got.costs <= high).all()


def test_positions_that_are_no_taps_are_refused() -> None:
    _, groups, statistics = setup("plain", "flatten")
    with pytest.raises(ConfigError, match="sampling='patch'"):
        score(groups, statistics, "dcp")


def test_few_rounds_choose_many_at_once() -> None:
    _, groups, statistics = setup("mlp", "pixel")
    scores = score(groups, statistics, "dcp", rounds=2)
    for group in groups.values():
        assert sorted(scores[group.name].order.tolist()) == list(range(group.units))
    total = {n: float(s.costs.sum()) for n, s in scores.groups.items()}
    exact = {n: float(s.costs.sum()) for n, s in score(groups, statistics, "dcp").groups.items()}
    assert total == pytest.approx(exact)


@pytest.mark.parametrize("options", [{"lam": -1.0}, {"share": 0.0}, {"share": 1.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_criterion("bootstrap", **options)
