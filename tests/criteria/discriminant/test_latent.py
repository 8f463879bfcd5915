"""Latent utility from the definitions of scatter matrices, and Otsu's threshold by brute force."""

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.criteria import latent_utility, otsu_threshold, score
from prunus.graph import find_groups
from prunus.statistics import collect, trace_utility
from tests.graph.nets import batches, build, images
from tests.statistics.oracles import gathered


def scatters(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_a, Σ_w and Σ_b, eq. 3.2–3.4, by centring."""
    total = (x - x.mean(0)).T @ (x - x.mean(0))
    within = torch.zeros_like(total)
    for label in y.unique():
        own = x[y == label]
        within += (own - own.mean(0)).T @ (own - own.mean(0))
    return total, within, total - within


def test_discriminants_are_those_of_the_scatter_matrices() -> None:
    net = build("residual")
    groups = find_groups(net, images(1))
    loader = batches(6, 16)
    latent = latent_utility(groups, collect(net, loader, groups), ridge=1e-12)
    x, y = gathered(net, loader, "head")
    total, within, between = scatters(x.double(), y)
    assert latent.module == "head"
    torch.testing.assert_close(
        latent.values, between.diagonal() / within.diagonal(), rtol=1e-4, atol=1e-9
    )
    for got, by_hand in zip(latent.covariances, (total, within, between), strict=True):
        torch.testing.assert_close(got, by_hand / len(x), rtol=1e-3, atol=1e-6)
    eigenvalues = scipy.linalg.eigh(between.numpy(), within.numpy(), eigvals_only=True)[::-1]
    assert latent.eigenvalues.tolist() == pytest.approx(eigenvalues[:3].tolist(), rel=1e-3)
    assert len(latent.eigenvalues) == 3
    assert latent.order.tolist() == torch.argsort(latent.values, descending=True).tolist()


def test_constants_and_copies_are_worth_nothing() -> None:
    net = build("plain")
    with torch.no_grad():
        net.conv2.weight[1] = 0
        net.conv2.bias[1] = 2.0
        net.conv2.weight[4], net.conv2.bias[4] = net.conv2.weight[3], net.conv2.bias[3]
    groups = find_groups(net, images(1))
    latent = latent_utility(groups, collect(net, batches(6, 16), groups))
    assert latent.constant.nonzero()[:, 0].tolist() == [1]
    assert latent.copy.nonzero()[:, 0].tolist() == [4]
    assert latent.values[1] == latent.values[4] == 0
    assert latent.values[[0, 2, 3, 5]].min() > 0
    assert latent.eigenvalues.isfinite().all()
    assert set(latent.top(6).tolist()) == {0, 2, 3, 5}
    assert len(latent.top(1)) == 1
    with pytest.raises(ConfigError, match="0 latent dimensions"):
        latent.top(0)


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=30))
def test_otsu_splits_where_the_classes_lie_farthest_apart(numbers: list[float]) -> None:
    x = sorted(numbers)
    threshold = otsu_threshold(torch.tensor(x, dtype=torch.float64))

    def apart(i: int) -> float:
        low, high = sum(x[:i]) / i, sum(x[i:]) / (len(x) - i)
        return i * (len(x) - i) * (high - low) ** 2

    best = max(range(1, len(x)), key=apart)
    split = sum(value <= threshold for value in x)
    assert x[0] <= threshold <= x[-1]
    if 0 < split < len(x):
        assert apart(split) == pytest.approx(apart(best), rel=1e-6, abs=1e-6)


def test_otsu_takes_the_group_that_stands_out() -> None:
    net = build("mlp")
    groups = find_groups(net, images(1))
    latent = latent_utility(groups, collect(net, batches(6, 16), groups))
    least = otsu_threshold(latent.values[latent.values > 0])
    assert set(latent.otsu().tolist()) == set((latent.values > least).nonzero()[:, 0].tolist())
    with pytest.raises(ConfigError, match="at least 2"):
        otsu_threshold(torch.ones(1))


def test_deep_lda_is_utility_in_units_of_the_spread() -> None:
    net = build("residual")
    groups = find_groups(net, images(1))
    loader = batches(3, 8)
    statistics = collect(net, loader, groups)
    chosen = [0, 3, 5]
    traces = trace_utility(net, loader, groups, chosen)
    scores = score(groups, statistics.with_traces(traces), "deep_lda")
    most = max(float((trace.utility / trace.spread).max()) for trace in traces.values())
    stream = traces["conv1"].utility / traces["conv1"].spread
    stream[chosen] = 1 + most  # the chosen dimensions go last; all others were not traced
    torch.testing.assert_close(scores["stem"].values, stream)
    inner = traces["conv2"].utility / traces["conv2"].spread
    torch.testing.assert_close(scores["conv1"].values, inner)


def test_what_has_no_latent_utility_says_so() -> None:
    net = build("plain")
    groups = find_groups(net, images(1))
    with pytest.raises(ConfigError, match="continuous"):
        latent_utility(groups, collect(net, batches(2, 8), groups, "logits"))
    with pytest.raises(ConfigError, match="no scatter of what 'head' reads"):
        latent_utility(groups, collect(net, batches(2, 8), groups, sampling="dual"))

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 5)
            self.a, self.b = nn.Linear(5, 2), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x).relu()
            return self.a(x), self.b(x)

    both = find_groups(TwoHeads(), torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="made by a, b"):
        _ = both.head
