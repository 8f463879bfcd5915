"""Taylor's term against one backward pass per image, and against the loss itself."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.criteria import score
from prunus.graph import find_groups
from prunus.statistics import collect
from tests.graph.nets import batches, build, images


def terms(model: nn.Module, name: str) -> Tensor:
    """Return |Σ_positions a·∂L/∂a| of what `name` reads, an image at a time: (N, C[, H·W])."""
    rows: list[Tensor] = []
    for x, y in batches(2, 4):
        for image, label in zip(x, y, strict=True):
            read: list[Tensor] = []

            def keep(_: nn.Module, args: tuple[Tensor], read: list[Tensor] = read) -> None:
                args[0].retain_grad()
                read.append(args[0])

            handle = model.get_submodule(name).register_forward_pre_hook(keep)
            F.cross_entropy(model(image[None]), label[None]).backward()
            handle.remove()
            assert read[0].grad is not None
            product = (read[0].detach() * read[0].grad)[0].double()
            rows.append(product.flatten(1).sum(1).abs() if product.dim() > 1 else product.abs())
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("net", "group", "consumer"), [("plain", "conv1", "conv2"), ("mlp", "fc1", "fc2")]
)
def test_one_backward_pass_an_image(net: str, group: str, consumer: str) -> None:
    model = build(net)
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 4), groups, gradients=True)
    values = score(groups, statistics, "taylor")[group].values
    torch.testing.assert_close(values, terms(model, consumer).mean(0), rtol=1e-4, atol=1e-8)


def test_two_consumers_give_their_mean_and_positions_their_sum() -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 4), groups, gradients=True)
    values = score(groups, statistics, "taylor")["stem"].values
    both = (terms(model, "conv1").mean(0) + terms(model, "head").mean(0)) / 2
    torch.testing.assert_close(values, both, rtol=1e-4, atol=1e-8)
    model = build("flatten")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 4), groups, gradients=True)
    values = score(groups, statistics, "taylor")["conv1"].values
    expected = terms(model, "fc1").mean(0).view(5, 16).sum(1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-8)


def test_it_is_the_slope_of_the_loss() -> None:
    """Shrink one unit of fc2 a little, image by image."""
    model = build("mlp").double()
    loader = [(x.double(), y) for x, y in batches(2, 4)]
    groups = find_groups(model, images(1).double())
    values = score(groups, collect(model, loader, groups, gradients=True), "taylor")["fc2"].values
    step = 1e-6

    def losses() -> Tensor:
        with torch.no_grad():
            return torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in loader])

    whole = losses()
    for unit in range(8):
        with torch.no_grad():
            model.fc3.weight[:, unit] *= 1 - step
            slope = (losses() - whole).abs().mean() / step
            model.fc3.weight[:, unit] /= 1 - step
        assert float(values[unit]) == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_without_gradients_it_says_what_to_do() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    with pytest.raises(ConfigError, match="gradients=True"):
        score(groups, collect(model, batches(2, 4), groups), "taylor")


def test_a_group_whose_consumer_has_no_gradient_is_skipped() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(2, 4), groups, gradients=True)
    statistics.outputs["fc3"] = dataclasses.replace(statistics.outputs["fc3"], taylor=None)
    scores = score(groups, statistics, "taylor")
    assert set(scores.skipped) == {"fc2"}
    assert "gradient" in scores.skipped["fc2"]
