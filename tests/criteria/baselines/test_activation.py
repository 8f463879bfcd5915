"""Means and variances of activations that a hook of our own saw."""

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError
from prunus.criteria import score
from prunus.graph import Groups, find_groups
from prunus.statistics import Statistics, collect
from tests.graph.nets import batches, build, images


def setup(net: str, sampling: str) -> tuple[nn.Module, Groups, Statistics]:
    model = build(net)
    groups = find_groups(model, images(1))
    return model, groups, collect(model, batches(4, 8), groups, sampling=sampling)


def inputs(model: nn.Module, name: str) -> Tensor:
    """Return everything that module `name` reads, float64."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().double())
    )
    with torch.no_grad():
        for x, _ in batches(4, 8):
            model(x)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("sampling", ["pixel", "flatten"])
def test_mean_and_variance_of_a_convolution_s_input(sampling: str) -> None:
    model, groups, statistics = setup("plain", sampling)
    x = inputs(model, "conv2")  # (N, 8, H, W)
    mean = score(groups, statistics, "activation_mean")["conv1"].values
    torch.testing.assert_close(mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-8)
    variance = score(groups, statistics, "activation_variance")["conv1"].values
    expected = (
        x.transpose(0, 1).flatten(1).var(1, correction=0)
        if sampling == "pixel"
        else x.var(0, correction=0).mean((1, 2))  # each position has a mean of its own
    )
    torch.testing.assert_close(variance, expected, rtol=1e-4, atol=1e-8)


def test_the_taps_of_a_patch_count_alike() -> None:
    model, groups, statistics = setup("plain", "patch")
    taps = torch.nn.functional.unfold(inputs(model, "conv2"), 3)  # (N, 8·9, positions)
    mean = score(groups, statistics, "activation_mean")["conv1"].values
    torch.testing.assert_close(mean, taps.mean((0, 2)).view(8, 9).mean(1), rtol=1e-5, atol=1e-8)
    each = taps.transpose(0, 1).flatten(1).var(1, correction=0)
    variance = score(groups, statistics, "activation_variance")["conv1"].values
    torch.testing.assert_close(variance, each.view(8, 9).mean(1), rtol=1e-4, atol=1e-8)


def test_flattened_channels_and_their_positions() -> None:
    model, groups, statistics = setup("flatten", "pixel")
    x = inputs(model, "fc1")  # (N, 80)
    scores = score(groups, statistics, "activation_variance")
    each = x.var(0, correction=0)
    torch.testing.assert_close(scores["fc1.features"].values, each, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(scores["conv1"].values, each.view(5, 16).mean(1), rtol=1e-4, atol=0)


def test_two_consumers_give_their_mean() -> None:
    model, groups, statistics = setup("residual", "pixel")
    each = [inputs(model, "conv1").mean((0, 2, 3)), inputs(model, "head").mean(0)]
    mean = score(groups, statistics, "activation_mean")["stem"].values
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-8)


def test_kernels_are_not_scatters() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(4, 8), groups, sampling="dual")
    with pytest.raises(ConfigError, match="dual"):
        score(groups, statistics, "activation_mean")
