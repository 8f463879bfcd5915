"""Inputs too wide for a Gram matrix: exact rows of few samples, frequent directions of many."""

import pytest
import torch
from torch import nn

import prunus
from prunus.statistics import Scatter, Sketch
from prunus.statistics import sketch as room
from prunus.surgery import find_groups


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = (nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(40, 3))


def batches(count: int, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.arange(size) % 3) for _ in range(count)
    ]


def both(net: nn.Module, count: int, **options: object) -> tuple[object, object]:
    """Return statistics with Gram matrices and with sketches of the widest layers."""
    example = torch.zeros(1, 6)
    whole = prunus.collect(net, batches(count), find_groups(net, example), **options)
    groups = find_groups(net, example, feature_limit=20)
    return whole, prunus.collect(net, batches(count), groups, feature_limit=20, **options)


def test_a_layer_too_wide_for_a_gram_is_scored_as_with_one(net: nn.Sequential) -> None:
    """Up to ROWS samples the rows are the samples themselves."""
    groups = find_groups(net, torch.zeros(1, 6), feature_limit=20)
    assert groups.consumers["2"].wide
    whole, sketched = both(net, 4, blocks=4)
    sketch, scatter = sketched["2"], whole["2"]
    assert isinstance(sketch, Sketch)
    assert sketch.outside == 0
    for name in ("S", "D", "correlation", "gram", "mean", "scale"):
        torch.testing.assert_close(getattr(sketch, name), getattr(scatter, name))
    for name in ("stacked", "di", "fdr", "structural", "ridge_lse"):
        found = prunus.score(groups, sketched, name)
        expected = prunus.score(find_groups(net, torch.zeros(1, 6)), whole, name)
        for group in ("0", "2"):
            torch.testing.assert_close(found[group].costs, expected[group].costs)
            if expected[group].replicates is not None:
                torch.testing.assert_close(found[group].replicates, expected[group].replicates)
    layers = {layer.module: layer for layer in prunus.rank_layers(groups, sketched)}
    for layer in prunus.rank_layers(find_groups(net, torch.zeros(1, 6)), whole):
        assert layers[layer.module].share == pytest.approx(layer.share)


def test_of_many_samples_the_sketch_is_within_its_bound(
    net: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ROWS", 12)
    whole, sketched = both(net, 8, blocks=2)
    sketch, scatter = sketched["2"], whole["2"]
    assert isinstance(sketch, Sketch)
    assert len(sketch.rows) <= 12
    missing = scatter.S - sketch.rows.T @ sketch.rows
    values = torch.linalg.eigvalsh(missing)
    assert -1e-8 < float(values[0]) <= float(values[-1]) <= sketch.shed + 1e-8
    torch.testing.assert_close(sketch.variance, scatter.S.diagonal())  # exact, as are the means
    torch.testing.assert_close(sketch.D, scatter.D)
    torch.testing.assert_close(sketch.S.diagonal(), scatter.S.diagonal())
    assert 0 < sketch.outside < 1
    groups = find_groups(net, torch.zeros(1, 6), feature_limit=20)
    scores = prunus.score(groups, sketched, "stacked")
    assert set(scores.approximate) == {"0", "2"}  # what layers 2 and 4 read
    assert "2 reads 60 features, whose scatter is kept in 12 rows" in scores.approximate["0"]
    assert "groups approximate" in repr(scores)


def test_sums_of_two_halves_are_those_of_all(net: nn.Sequential) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 50, 2, generator=generator, dtype=torch.float64)
    w = torch.rand(30, generator=generator, dtype=torch.float64)
    parts = []
    for half in (slice(0, 11), slice(11, 30)):
        sketch = Sketch.empty(50, 3)
        sketch.add_(x[half], w[half])
        parts.append(sketch)
    merged = parts[0].merge(parts[1])
    flat = x.transpose(1, 2).reshape(-1, 50)
    shares = w.repeat_interleave(2)
    mean = (shares @ flat) / shares.sum()
    S = ((flat - mean) * shares[:, None]).T @ (flat - mean)
    torch.testing.assert_close(merged.S, S)
    torch.testing.assert_close(merged.mean, mean)
    assert merged.samples == pytest.approx(float(shares.sum()))
    kept = torch.tensor([3, 7, 9])
    torch.testing.assert_close(merged.select(kept).S, S[kept][:, kept])


def test_a_network_with_such_a_layer_is_pruned_and_repaired(net: nn.Sequential) -> None:
    groups = find_groups(net, torch.zeros(1, 6), feature_limit=20)
    loader = batches(4)
    statistics = prunus.collect(net, loader, groups, feature_limit=20)
    scores = prunus.score(groups, statistics, "stacked")
    assert not scores.skipped
    assert not scores.approximate
    plan = prunus.make_plan(groups, scores, "params=50%")
    receipt = prunus.apply_(net, plan, statistics, loader=loader)
    assert all(repair.reason == "" for repair in receipt.repairs)
    assert net(torch.zeros(2, 6)).shape == (2, 3)


def test_a_scatter_and_a_sketch_do_not_add_up(net: nn.Sequential) -> None:
    with pytest.raises(prunus.PrunusError, match="cannot merge a sketch"):
        Sketch.empty(4, 3).merge(Scatter.zeros(4, 3))
