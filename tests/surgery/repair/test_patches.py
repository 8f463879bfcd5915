"""Repair from statistics by its kinds: k×k patches, one group of a convolution, the mean alone."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.graph import find_groups
from prunus.plan import plan_units
from prunus.statistics import Scatter, Statistics, collect
from prunus.surgery import Receipt, apply_
from tests.graph.nets import batches, build, images

#: Of so few and small images every output position is taken: nothing is left to chance.
IMAGES, SIZE, MADE = 48, 7, 6


class ConsumerNet(nn.Module):
    """`MADE` channels, one convolution that reads them, and a head."""

    def __init__(self, consumer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.maker = nn.Conv2d(3, MADE, 3, padding=1)
        self.consumer = consumer
        self.norm = norm or nn.Identity()
        self.head = nn.Conv2d(consumer.out_channels, 4, 1)

    def made(self) -> Tensor:
        """Return the input of the consumer."""
        return F.relu(self.maker(loader()[0][0].to(self.maker.weight)))

    def read(self, made: Tensor) -> Tensor:
        return self.norm(self.consumer(made))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(F.relu(self.maker(x))).relu()).mean((2, 3))


def norm() -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(4)
    made.running_mean.copy_(torch.linspace(-1, 1, 4))
    made.running_var.copy_(torch.linspace(0.5, 2, 4))
    return made


CONSUMERS: dict[str, Callable[[], ConsumerNet]] = {
    "padded": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, padding=1)),
    "strided": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, padding=1, stride=2)),
    "dilated": lambda: ConsumerNet(nn.Conv2d(MADE, 4, (3, 2), dilation=(2, 1), padding=(2, 0))),
    "1x1": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 1)),
    "without bias": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, padding=1, bias=False)),
    "norm": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, padding=1, bias=False), norm()),
    "grouped": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, padding=1, groups=2)),
    "grouped, norm": lambda: ConsumerNet(nn.Conv2d(MADE, 4, 3, groups=2, bias=False), norm()),
}


def loader() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return [(x, torch.arange(IMAGES) % 4)]


def cut_down(
    kind: str, sampling: str = "patch", **options: object
) -> tuple[ConsumerNet, ConsumerNet, Receipt]:
    """Remove unit 1: channel 1, and in two groups channel 1 of each, 1 and 4."""
    torch.manual_seed(0)
    model = CONSUMERS[kind]().double().eval()
    groups = find_groups(model, loader()[0][0][:1])
    statistics = collect(model, loader(), groups, sampling=sampling)
    cut = copy.deepcopy(model)
    return model, cut, apply_(cut, plan_units(groups, {"maker": [1]}), statistics, **options)


def lost_and_kept(model: ConsumerNet) -> tuple[list[int], list[int]]:
    lost = [1, 4] if model.consumer.groups > 1 else [1]
    return lost, [c for c in range(MADE) if c not in lost]


def gone(model: ConsumerNet) -> Tensor:
    """Return what the removed channels gave to the consumer's output."""
    silent = model.made()
    silent[:, lost_and_kept(model)[1]] = 0
    consumer = copy.deepcopy(model.consumer)
    consumer.bias = None
    return consumer(silent)


def least_squares(model: ConsumerNet, *, bias: bool) -> Tensor:
    """Fit what the removed channels gave by patches of the kept ones, and a constant.

    Each convolution group on its own channels. Returns the fitted (N, outputs, H, W).
    """
    conv, made, target = model.consumer, model.made(), gone(model)
    reads, makes = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    fitted = torch.zeros_like(target)
    for g in range(conv.groups):
        kept = [c for c in lost_and_kept(model)[1] if c // reads == g]
        patches = F.unfold(
            made[:, kept], conv.kernel_size, conv.dilation, conv.padding, conv.stride
        )
        known = patches.transpose(1, 2).flatten(0, 1)  # (N·positions, kept·taps)
        if bias:
            known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], 1)
        outputs = slice(g * makes, (g + 1) * makes)
        aim = target[:, outputs].movedim(1, -1).flatten(0, -2)
        fit = known @ torch.linalg.lstsq(known, aim, driver="gelsd").solution
        shape = target[:, outputs].movedim(1, -1).shape
        fitted[:, outputs] = fit.view(shape).movedim(-1, 1)
    return fitted


@torch.no_grad()
@pytest.mark.parametrize("kind", CONSUMERS)
def test_patch_repair_is_least_squares_over_unfolded_patches(kind: str) -> None:
    dense, cut, receipt = cut_down(kind, compensate="patch", ridge=1e-12)
    bias = kind != "without bias"
    made, lost = dense.made(), gone(dense)
    fitted = least_squares(dense, bias=bias)
    expected = dense.norm(dense.consumer(made) - lost + fitted)
    found = cut.read(made[:, lost_and_kept(dense)[1]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    energy = lost - lost.mean((0, 2, 3), keepdim=True) if bias else lost
    left = float((lost - fitted).square().sum() / energy.square().sum())
    assert receipt.repairs[0].left == pytest.approx(left, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", CONSUMERS)
def test_a_finer_repair_leaves_less(kind: str) -> None:
    error = {}
    for compensate in ("none", "bias", "pointwise", "patch"):
        dense, cut, _ = cut_down(kind, compensate=compensate, ridge=1e-9)
        made = dense.made()
        off = cut.read(made[:, lost_and_kept(dense)[1]]) - dense.read(made)
        error[compensate] = float(off.square().mean())
    assert error["patch"] <= error["pointwise"] + 1e-12
    assert error["pointwise"] < error["none"]
    if kind != "without bias":
        assert error["patch"] < error["bias"] < error["none"]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["padded", "norm", "grouped", "grouped, norm", "strided"])
def test_bias_keeps_the_mean_and_every_weight(kind: str) -> None:
    """With patches the zeros of the padding count, so that the output's mean is exact."""
    dense, cut, receipt = cut_down(kind, compensate="bias")
    lost, kept = lost_and_kept(dense)
    made = dense.made()
    before, after = dense.read(made), cut.read(made[:, kept])
    torch.testing.assert_close(before.mean((0, 2, 3)), after.mean((0, 2, 3)))
    columns = [c for c in range(dense.consumer.weight.shape[1]) if c not in lost]
    assert torch.equal(cut.consumer.weight, dense.consumer.weight[:, columns])
    given = gone(dense)
    left = (given - given.mean((0, 2, 3), keepdim=True)).square().sum() / given.square().sum()
    assert receipt.repairs[0].left == pytest.approx(float(left), rel=1e-9)


def test_bias_needs_somewhere_to_put_the_mean() -> None:
    _, _, receipt = cut_down("without bias", compensate="bias")
    (repair,) = receipt.repairs
    assert repair.left is None
    assert "no bias, and no BatchNorm follows" in repair.reason


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_the_mean_of_a_transposed_convolution(stride: int) -> None:
    """Each output is reached by 1/stride of the taps along each axis."""
    torch.manual_seed(0)
    model = ConsumerNet(nn.ConvTranspose2d(MADE, 4, 2, stride=stride)).double().eval()
    groups = find_groups(model, loader()[0][0][:1])
    cut = copy.deepcopy(model)
    statistics = collect(model, loader(), groups)
    apply_(cut, plan_units(groups, {"maker": [1]}), statistics, compensate="bias")
    made = model.made()
    made[:, 1] = made[:, 1].mean()  # what the bias stands for
    inner = (..., slice(stride, -stride), slice(stride, -stride))
    dense = model.consumer(made)[inner].mean((0, 2, 3))
    found = cut.consumer(made[:, [0, 2, 3, 4, 5]])[inner].mean((0, 2, 3))
    torch.testing.assert_close(found, dense)


@pytest.mark.parametrize("kind", ["padded", "grouped"])
def test_pointwise_from_patches_takes_their_taps_for_samples(kind: str) -> None:
    torch.manual_seed(0)
    model = CONSUMERS[kind]().double().eval()
    groups = find_groups(model, loader()[0][0][:1])
    plan = plan_units(groups, {"maker": [1]})
    statistics = collect(model, loader(), groups, sampling="patch")
    taps = Statistics([{n: s.pointwise() for n, s in statistics.items()}], groups, IMAGES)
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    apply_(one, plan, statistics, compensate="pointwise")
    apply_(other, plan, taps, compensate="pointwise")
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize("sampling", ["pixel", "pool:3", "flatten:3"])
def test_patches_are_asked_for_where_they_matter(sampling: str) -> None:
    """Nine cells of a pooled map are no 3×3 patch, though they are as many."""
    with pytest.raises(ConfigError, match=f"'consumer' were sampled by '{sampling}'"):
        cut_down("padded", sampling, compensate="patch")
    _, _, receipt = cut_down("1x1", "pixel", compensate="patch")
    assert receipt.repairs[0].left is not None
    _, _, receipt = cut_down("padded", sampling, compensate="pointwise")
    assert receipt.repairs[0].left is not None


def test_kernels_between_images_hold_no_gram() -> None:
    _, _, receipt = cut_down("padded", "dual", compensate="pointwise")
    assert "sampling 'dual'" in receipt.repairs[0].reason


@torch.no_grad()
@pytest.mark.parametrize("sampling", ["patch", "flatten"])
@pytest.mark.parametrize("compensate", ["bias", "pointwise", "patch"])
def test_a_flattened_map_by_channel_and_by_position(sampling: str, compensate: str) -> None:
    """Folded, positions are samples of a channel, or its cells where they were kept apart."""
    model = build("flatten").double()
    data = [(x.double(), y) for x, y in batches(6, 32)]
    groups = find_groups(model, data[0][0][:1], feature_limit=40)
    statistics = collect(model, data, groups, sampling=sampling)
    assert statistics["fc1"].cells == (16 if sampling == "flatten" else 1)
    cut = copy.deepcopy(model)
    plan, kept = plan_units(groups, {"conv1": [2]}), [0, 1, 3, 4]
    receipt = apply_(cut, plan, statistics, compensate=compensate, ridge=1e-9)
    maps = F.max_pool2d(F.relu(model.conv1(torch.cat([x for x, _ in data]))), 2)
    filled = maps.flatten(2).clone()  # (N, 5, 16), channel 2 to be made from the others
    ones = torch.ones(len(maps), 1, dtype=torch.float64)
    if compensate == "bias" and sampling == "flatten":
        filled[:, 2] = filled[:, 2].mean(0)
    elif compensate == "bias":
        filled[:, 2] = filled[:, 2].mean()
    elif compensate == "patch" and sampling == "flatten":
        known = torch.cat([filled[:, kept].flatten(1), ones], 1)
        solution = torch.linalg.lstsq(known, filled[:, 2], driver="gelsd").solution
        filled[:, 2] = known @ solution
    else:  # the same mix at every position
        known = torch.cat([filled[:, kept], ones[:, :, None].expand(-1, -1, 16)], 1)
        known = known.transpose(1, 2).flatten(0, 1)  # (N·16, 5)
        solution = torch.linalg.lstsq(known, filled[:, 2].reshape(-1, 1)).solution
        filled[:, 2] = (known @ solution).view(-1, 16)
    found = cut.fc1(maps[:, kept].flatten(1))
    torch.testing.assert_close(found, model.fc1(filled.flatten(1)), atol=1e-5, rtol=0)
    assert receipt.repairs[0].reason == ""


@torch.no_grad()
def test_a_gram_that_rounding_made_indefinite_is_still_solved() -> None:
    """A kept channel twice, float32, and a ridge of nothing."""
    torch.manual_seed(0)
    model = CONSUMERS["padded"]().eval()
    for tensor in (model.maker.weight, model.maker.bias):
        tensor[2], tensor[1] = tensor[5], tensor[5]
    data = [(x.float(), y) for x, y in loader()]
    groups = find_groups(model, data[0][0][:1])
    statistics = collect(model, data, groups, sampling="patch")
    gram = statistics["consumer"].gram
    gram.diagonal().mul_(1 - 1e-9)  # as rounding might
    cut = copy.deepcopy(model)
    plan = plan_units(groups, {"maker": [1]})
    apply_(cut, plan, statistics, compensate="patch", ridge=1e-14)
    expected, found = model(data[0][0]), cut(data[0][0])
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-3, rtol=0)


def test_consumers_without_samples_say_so() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(), groups)
    held = {name: statistics[name] for name in statistics} | {"conv2": Scatter.zeros(8, 4)}
    receipt = apply_(model, plan_units(groups, {"conv1": [0]}), Statistics([held], groups, 24))
    assert receipt.repairs[0].reason == "it does not run on the calibration data"
