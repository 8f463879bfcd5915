"""Gradients, Taylor terms and ranges of each consumer's output, against autograd image by image."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import Consumer, Groups, find_groups
from prunus.statistics import Output, Statistics, collect
from tests.graph.nets import NETS, images
from tests.statistics.oracles import Loader, assert_equal, batches64, ready


def rows(z: Tensor, module: nn.Module) -> Tensor:
    """Return an output of one image as (P, O)."""
    return z.reshape(-1, z.shape[-1]) if isinstance(module, nn.Linear) else z[0].flatten(1).T


def channels(a: Tensor, module: nn.Module, consumer: Consumer) -> Tensor:
    """Return an input of one image as (P, F)."""
    if consumer.positions.shape[1] > 1:
        return a[0][torch.from_numpy(consumer.positions)].T
    return rows(a, module)


def by_image(model: nn.Module, groups: Groups, x: Tensor, target: Tensor, loss) -> dict:
    """Return a consumer's input, its gradient, its output and that one's gradient, of an image."""
    seen: dict[str, list[Tensor]] = {}

    def look(name: str):
        def hook(_, args, z) -> None:
            for tensor in (args[0], z):
                tensor.retain_grad()
            seen[name] = [args[0], z]

        return hook

    handles = [model.get_submodule(n).register_forward_hook(look(n)) for n in groups.consumers]
    try:
        value = loss(model(x.clone().requires_grad_()), target)
        value.backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return seen


def check(statistics: Statistics, model: nn.Module, groups: Groups, loader: Loader, loss) -> None:
    gradient: dict[str, Tensor] = {}
    taylor: dict[str, Tensor] = {}
    samples = dict.fromkeys(groups.consumers, 0)
    for x, y in loader:
        for n in range(len(x)):
            seen = by_image(model, groups, x[n : n + 1], y[n : n + 1], loss)
            for name, (a, z) in seen.items():
                module, consumer = model.get_submodule(name), groups.consumers[name]
                assert a.grad is not None
                assert z.grad is not None
                for g in rows(z.grad, module):
                    gradient[name] = gradient.get(name, 0) + torch.outer(g, g)
                    samples[name] += 1
                term = channels(a.detach() * a.grad, module, consumer).sum(0).abs()
                taylor[name] = taylor.get(name, 0) + term
    assert set(statistics.outputs) == set(groups.consumers)
    for name, output in statistics.outputs.items():
        assert output.gradient is not None
        assert output.taylor is not None
        assert output.samples == samples[name]
        assert len(output.taylor) == len(groups.consumers[name].positions)
        torch.testing.assert_close(output.gradient, gradient[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(output.taylor, taylor[name], rtol=1e-9, atol=1e-12)


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y)


@pytest.mark.parametrize("net", NETS)
def test_gradients_of_the_cross_entropy(net: str) -> None:
    model, groups = ready(net)
    loader = batches64(2, 3)
    statistics = collect(model, loader, groups, sampling="pixel", gradients=True)
    check(statistics, model, groups, loader, cross_entropy)
    plain = collect(model, loader, groups, sampling="pixel")
    assert not plain.outputs
    for name in plain:
        assert_equal(plain[name], statistics[name])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_gradients_under_no_grad_and_of_coarse_labels() -> None:
    model, groups = ready("plain")
    loader = batches64(2, 3)
    coarse = [(x, torch.stack([y, y // 2], 1)) for x, y in loader]
    with torch.no_grad():
        statistics = collect(model, coarse, groups, gradients=True)
    check(statistics, model, groups, loader, cross_entropy)


def test_gradients_of_the_squared_error() -> None:
    model, groups = ready("plain")
    loader = [(x, x.flatten(2).mean(2) @ torch.ones(3, 4).double()) for x, _ in batches64(2, 3)]
    statistics = collect(model, loader, groups, "targets", gradients=True)
    check(statistics, model, groups, loader, lambda z, y: (z - y).square().sum() / 2)


def test_gradients_of_a_folded_input() -> None:
    model = ready("flatten")[0]
    groups = find_groups(model, images(1).double(), feature_limit=79)
    assert groups.consumers["fc1"].positions.shape == (5, 16)
    loader = batches64(1, 4)
    statistics = collect(model, loader, groups, gradients=True)
    check(statistics, model, groups, loader, cross_entropy)


class InPlace(nn.Module):
    """ReLUs that overwrite the output whose gradient is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3)
        self.conv2 = nn.Conv2d(5, 4, 3)
        self.head = nn.Linear(4, 4)
        self.inplace = True

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x), inplace=self.inplace)
        x = F.relu(self.conv2(x), inplace=self.inplace)
        return self.head(x.mean((2, 3)))


def test_in_place_activations_change_nothing() -> None:
    torch.manual_seed(0)
    model = InPlace().double().eval()
    loader = batches64(2, 4)
    groups = find_groups(model, loader[0][0])
    found = []
    for inplace in (True, False):
        model.inplace = inplace
        found.append(collect(model, loader, groups, gradients=True, ranges=True).outputs)
    for name, output in found[0].items():
        for field in ("gradient", "taylor", "low", "high"):
            assert torch.equal(getattr(output, field), getattr(found[1][name], field)), field


def test_without_labels_they_are_drawn_from_the_output() -> None:
    model, groups = ready("mlp")
    loader = [x for x, _ in batches64(4, 50)]
    a, b = (collect(model, loader, groups, "logits", gradients=True) for _ in range(2))
    for name in a:
        assert torch.equal(a.outputs[name].gradient, b.outputs[name].gradient)
    # E over the labels of g gᵀ for the last layer, whose output are the logits: the Fisher,
    # diag(p) − ppᵀ.
    p = torch.cat([model(x).softmax(1) for x in loader]).detach()
    fisher = torch.diag(p.sum(0)) - p.T @ p
    found = a.outputs["fc3"].gradient
    assert found is not None
    assert (found - fisher).norm() < 0.15 * fisher.norm()


@pytest.mark.parametrize("net", ["plain", "residual", "token", "transposed", "flatten"])
def test_ranges(net: str) -> None:
    model, groups = ready(net)
    loader = batches64(2, 3)
    seen: dict[str, list[Tensor]] = {name: [] for name in groups.consumers}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, z, n=name: seen[n].append(z)
        )
        for name in seen
    ]
    with torch.no_grad():
        for x, _ in loader:
            model(x)
    for handle in handles:
        handle.remove()
    outputs = collect(model, loader, groups, ranges=True).outputs
    assert set(outputs) == set(seen)
    for name, z in seen.items():
        module = model.get_submodule(name)
        every = torch.cat([rows(one[None], module) for batch in z for one in batch])
        assert torch.equal(outputs[name].low, every.amin(0))
        assert torch.equal(outputs[name].high, every.amax(0))
        assert outputs[name].gradient is outputs[name].taylor is None


def test_parts_add_up() -> None:
    model, groups = ready("residual")
    loader = batches64(4, 3)
    options = {"gradients": True, "ranges": True}
    whole = collect(model, loader, groups, **options).outputs
    parts = [collect(model, loader[i::2], groups, **options) for i in range(2)]
    merged = parts[0].merge(parts[1]).outputs
    for name, output in whole.items():
        assert merged[name].samples == output.samples
        for field in ("gradient", "taylor", "low", "high"):
            torch.testing.assert_close(
                getattr(merged[name], field), getattr(output, field), rtol=1e-12, atol=1e-14
            )
    half = Output(samples=2, low=torch.zeros(1), high=torch.ones(1))
    other = Output().merge(half)
    assert (other.samples, other.gradient) == (2, None)
    assert other.low is half.low
