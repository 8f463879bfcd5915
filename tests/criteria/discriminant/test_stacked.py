"""The consumer's own loss after repair: patches, whitening, and what cannot be read."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.criteria import StackedConsumer, needs_of, score
from prunus.graph import Groups, find_groups
from prunus.statistics import Statistics, collect
from tests.criteria.oracles import gain_behind
from tests.graph.nets import Grouped, Plain, WithPReLU, batches, build, images
from tests.statistics.oracles import drawn


def setup(net: str | nn.Module, **options: object) -> tuple[nn.Module, Groups, Statistics]:
    """Collect in double precision, so that sums equal those over the gathered samples."""
    model = (build(net) if isinstance(net, str) else net).double()
    groups = find_groups(model, images(1).double())
    loader = [(x.double(), y) for x, y in batches(4, 16)]
    return model, groups, collect(model, loader, groups, **options)


def residual_energy(x: Tensor, W: Tensor, block: list[int], rho: float) -> float:
    """Share of the energy of xW that ridge least squares on the other features cannot save."""
    X = x - x.mean(0)
    scale = X.square().mean(0).sqrt()
    X, W = X / scale, W * scale[:, None]
    keep = [i for i in range(x.shape[1]) if i not in block]
    rows = torch.cat([X[:, keep], rho**0.5 * torch.eye(len(keep), dtype=x.dtype)])
    target = torch.cat([X[:, block] @ W[block], W.new_zeros(len(keep), W.shape[1])])
    V = torch.linalg.lstsq(rows, target).solution
    lost = (rows @ V - target).square().sum() + rho * W[block].square().sum()
    return float(lost / (X @ W).square().sum())


def first_costs(rule: StackedConsumer, groups: Groups, group: str, statistics: Statistics) -> list:
    (consumer,) = rule.states(groups, [groups[group]], statistics)
    return consumer.costs(np.arange(groups[group].units)).tolist()


@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("net", [Plain, WithPReLU, Grouped])
def test_a_patch_s_unit_is_its_taps(net: type[nn.Module], whiten: bool, ridge: float) -> None:
    torch.manual_seed(0)
    model, groups, statistics = setup(net().eval(), sampling="patch", gradients=True)
    loader = [(x.double(), y) for x, y in batches(4, 16)]
    x, _ = drawn(model, loader, "conv2", "patch")
    dense = torch.zeros_like(model.conv2.weight[:, :1]).repeat(1, x.shape[1] // 9, 1, 1)
    per = model.conv2.out_channels // model.conv2.groups
    for o in range(model.conv2.out_channels):  # a grouped convolution, written out in full
        start = o // per * model.conv2.weight.shape[1]
        dense[o, start : start + model.conv2.weight.shape[1]] = model.conv2.weight[o].detach()
    W = dense.flatten(1).T.detach()  # (C·taps, O)
    if whiten:
        output = statistics.outputs["conv2"]
        values, vectors = torch.linalg.eigh(output.gradient / output.samples)
        W = W @ vectors * values.clamp(min=0).sqrt()
    else:
        W = W * gain_behind(model, groups, "conv2")
    rule = StackedConsumer(mu=0.0, ridge=ridge, whiten=whiten)
    costs = first_costs(rule, groups, "conv1", statistics)
    units = groups["conv1"].units
    each = x.shape[1] // 9 // units
    for unit in range(units):
        channels = groups["conv1"].consumers[0].index[unit]
        assert len(channels) == each
        block = [int(c) * 9 + t for c in channels for t in range(9)]
        lost = residual_energy(x, W, block, ridge * len(x))
        assert costs[unit] == pytest.approx(lost, rel=1e-6)


def test_whitening_takes_the_taps_apart_by_pixel() -> None:
    model, groups, statistics = setup("plain", sampling="pixel", gradients=True)
    output = statistics.outputs["conv2"]
    values, vectors = torch.linalg.eigh(output.gradient / output.samples)
    root = vectors * values.clamp(min=0).sqrt()
    white = torch.einsum("oixy,op->ipxy", model.conv2.weight.detach(), root).flatten(1)
    loader = [(x.double(), y) for x, y in batches(4, 16)]
    x, _ = drawn(model, loader, "conv2", "pixel")
    costs = first_costs(StackedConsumer(mu=0.0, whiten=True), groups, "conv1", statistics)
    for unit in range(8):
        lost = residual_energy(x, white, [unit], 1e-3 * len(x))
        assert costs[unit] == pytest.approx(lost, rel=1e-6)


def test_an_output_that_the_loss_does_not_feel_costs_nothing() -> None:
    model = build("mlp")
    with torch.no_grad():
        model.fc3.weight[:, 0] = 0  # the loss does not feel fc2's output 0 …
        model.fc2.weight[1:, 3] = 0  # … the only one to read unit 3
        model.fc2.weight[0, 3] = 10.0
    _, groups, statistics = setup(model, gradients=True)
    blind = score(groups, statistics, "stacked", mu=0.0)["fc1"]
    aware = score(groups, statistics, "stacked", mu=0.0, whiten=True)["fc1"]
    assert float(aware.costs[3]) < 1e-12
    assert float(blind.costs[3]) > 1e-3


def test_whitening_needs_gradients() -> None:
    _, groups, statistics = setup("plain")
    assert needs_of(StackedConsumer(whiten=True)) == {"gradients"}
    assert not needs_of(StackedConsumer())
    with pytest.raises(ConfigError, match=r"module 'conv2'.*gradients=True"):
        score(groups, statistics, "stacked", whiten=True)


@pytest.mark.parametrize("sampling", ["flatten", "flatten:2", "flatten:3"])
def test_cells_that_no_weight_reads_are_an_error(sampling: str) -> None:
    """flatten:3 has as many cells as the kernel taps; but they are different positions."""
    _, groups, statistics = setup("plain", sampling=sampling)
    with pytest.raises(ConfigError, match=r"module 'conv2' .* 9 taps.*'patch' or 'pixel'"):
        score(groups, statistics, "stacked")
    assert score(groups, statistics, "di")["conv1"].costs.max() > 0


def test_a_flattened_linear_consumer_is_read_by_position() -> None:
    model = build("flatten").double()
    groups = find_groups(model, images(1).double(), feature_limit=20)
    loader = [(x.double(), y) for x, y in batches(6, 32)]
    statistics = collect(model, loader, groups, sampling="flatten")
    assert statistics["fc1"].cells == 16
    x, _ = drawn(model, loader, "fc1", "flatten", groups.consumers["fc1"])
    W = model.fc1.weight.detach().T
    costs = first_costs(StackedConsumer(mu=0.0), groups, "conv1", statistics)
    for unit in range(5):
        block = list(range(16 * unit, 16 * unit + 16))
        lost = residual_energy(x, W, block, 1e-3 * len(x))
        assert costs[unit] == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize("options", [{"mu": -1.0}, {"ridge": 0.0}, {"rounds": 0}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        StackedConsumer(**options)
