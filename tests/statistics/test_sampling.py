"""Samples of a consumer's input against `F.pad`, `F.unfold` and adaptive pooling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError
from prunus.graph import Consumer
from prunus.modules.kinds import input_columns
from prunus.statistics import Sampling
from prunus.statistics.sampling import Samples, kernel_taps, patches, take_samples
from tests.statistics.oracles import samples_of, unfolded


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def take(x: Tensor, module: nn.Module, sampling: str, images: int = 1, **options: int) -> Samples:
    read = np.arange(x.shape[-1] if isinstance(module, nn.Linear) else x.shape[1])[:, None]
    return take_samples(
        x,
        module,
        Consumer("consumer", len(read), read),
        Sampling.parse(sampling),
        images=images,
        batch=0,
        **{"feature_limit": 4096, **options},
    )


@pytest.mark.parametrize("text", ["pixel", "patch", "pool:3", "flatten", "flatten:2", "dual"])
def test_kinds_are_read(text: str) -> None:
    sampling = Sampling.parse(text)
    assert f"{sampling.kind}:{sampling.grid}".removesuffix(":None") == text


@pytest.mark.parametrize(
    "text", ["", "pixels", "pixel:2", "patch:3", "pool", "pool:", "pool:0", "pool:-1", "flatten:x"]
)
def test_unknown_kinds_name_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match=r"sampling '.*': expected pixel, patch, pool:G"):
        Sampling.parse(text)


CONSUMERS = {
    "3x3": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 3, padding=1),
    "wide padding": nn.Conv2d(4, 6, 3, padding=(0, 3)),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "uneven stride": nn.Conv2d(4, 6, (2, 3), stride=(3, 2)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "reflect": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "replicate": nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="replicate"),
    "circular": nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"),
    "same": nn.Conv2d(4, 6, 3, padding="same"),
    "same, even kernel": nn.Conv2d(4, 6, (4, 2), padding="same", dilation=(1, 2)),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "same, reflect": nn.Conv2d(4, 6, (2, 4), padding="same", padding_mode="reflect"),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "1x1": nn.Conv2d(4, 6, 1),
    "1x1 strided": nn.Conv2d(4, 6, 1, stride=2),
    "Conv1d": nn.Conv1d(4, 6, 3, padding=1, stride=2),
    "Conv1d same": nn.Conv1d(4, 6, 4, padding="same"),
    "Conv1d reflect": nn.Conv1d(4, 6, 5, padding=2, padding_mode="reflect"),
    "Conv1d dilated": nn.Conv1d(4, 6, 2, dilation=3),
    "transposed": nn.ConvTranspose2d(4, 6, 4, stride=2),
}
CONSUMERS = {name: module.double() for name, module in CONSUMERS.items()}


def an_input(module: nn.Module) -> Tensor:
    return numbers(2, 4, 9) if isinstance(module, nn.Conv1d) else numbers(2, 4, 7, 9)


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("sampling", ["pixel", "patch", "pool:2", "flatten", "flatten:3", "dual"])
def test_a_convolution_s_input(consumer: str, sampling: str) -> None:
    module = CONSUMERS[consumer]
    x = an_input(module)
    before = x.clone()
    samples = take(x, module, sampling)
    whole = consumer.startswith("1x1") and sampling == "patch"
    expected, grid = samples_of(x, module, "pixel" if whole else sampling)
    torch.testing.assert_close(samples.x.transpose(1, 2), expected, rtol=1e-12, atol=1e-14)
    assert samples.grid == grid
    assert samples.places is None
    assert samples.cells == samples.x.shape[1] // 4
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("consumer", [r for r, m in CONSUMERS.items() if kernel_taps(m) > 1])
def test_patches_are_what_the_weight_reads(consumer: str) -> None:
    module, x = CONSUMERS[consumer], an_input(CONSUMERS[consumer])
    samples = patches(x, module, 10**9, seed=0)
    weight = input_columns(module).view(4, 6, -1).transpose(1, 2).flatten(0, 1)  # (C·taps, O)
    outputs = torch.einsum("fo,bfp->bop", weight, samples.x) + module.bias[:, None]
    expected = module(x)
    torch.testing.assert_close(outputs.view_as(expected), expected)
    assert samples.grid == tuple(expected.shape[2:])


@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_patches_of_any_convolution(size, kernel, stride, padding, dilation, mode, shape) -> None:
    for n, k, p, d in zip(size, kernel, padding, dilation, strict=True):
        assume(n + 2 * p >= d * (k - 1) + 1)
        assume(mode in ("zeros", "replicate") or p < n)
    module = nn.Conv2d(
        shape[1], 1, kernel, stride, padding, dilation, padding_mode=mode, device="meta"
    )
    x = numbers(*shape, *size)
    expected, grid = unfolded(x, module)
    samples = patches(x, module, 10**9, seed=0)
    assert torch.equal(samples.x.transpose(1, 2), expected)
    assert (samples.grid, samples.cells) == (grid, math.prod(kernel))


@pytest.mark.parametrize("consumer", ["3x3", "strided", "reflect", "same, even kernel", "Conv1d"])
def test_random_positions_are_patches_at_their_places(consumer: str) -> None:
    module = CONSUMERS[consumer]
    x = an_input(module)
    whole, _ = unfolded(x, module)  # (B, P, F)
    samples = patches(x, module, 3, seed=5)
    assert samples.places is not None
    assert samples.places.shape == (2, 3)
    assert samples.x.shape == (2, whole.shape[2], 3)
    for image, places in enumerate(samples.places.tolist()):
        for sample, place in enumerate(places):
            assert torch.equal(samples.x[image, :, sample], whole[image, place])
    again, other = patches(x, module, 3, seed=5), patches(x, module, 3, seed=6)
    assert torch.equal(again.x, samples.x)
    assert not torch.equal(other.places, samples.places)


def test_random_positions_are_drawn_alike() -> None:
    module, B = nn.Conv2d(1, 1, 3), 4000
    places = patches(numbers(1, 1, 5, 6).expand(B, -1, -1, -1), module, 4, seed=1).places
    assert places is not None
    count = torch.bincount(places.flatten(), minlength=12).double()
    mean = 4 * B / 12
    assert (count - mean).abs().max() < 4 * math.sqrt(mean)
    assert len({tuple(row) for row in places.tolist()}) > 1000  # each image draws its own


@pytest.mark.parametrize(("images", "count"), [(10_000, 1), (5_000, 2), (900, 12), (1, 81)])
def test_as_many_positions_as_give_ten_thousand_samples(images: int, count: int) -> None:
    module = nn.Conv2d(4, 6, 3, padding=1)
    assert take(numbers(2, 4, 9, 9), module, "patch", images).x.shape == (2, 36, count)


def test_wide_patches_take_sixteen_samples_a_feature() -> None:
    module = nn.Conv2d(100, 2, 3, padding=1, device="meta")  # 900 features: 14 400 samples
    assert take(numbers(1, 100, 9, 9), module, "patch", 1000).x.shape == (1, 900, 15)


def test_patches_wider_than_the_limit_are_sampled_by_pixel() -> None:
    module, x = nn.Conv2d(4, 6, 3), numbers(2, 4, 7, 9)
    assert take(x, module, "patch", feature_limit=36).cells == 9
    samples = take(x, module, "patch", feature_limit=35)
    assert (samples.cells, samples.grid) == (1, (7, 9))
    assert torch.equal(samples.x, x.flatten(2))


@pytest.mark.parametrize("sampling", ["pixel", "patch", "pool:2", "flatten", "dual"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 4, 5)])
def test_rows_of_a_linear_layer(shape: tuple[int, ...], sampling: str) -> None:
    module, x = nn.Linear(5, 2), numbers(*shape)
    samples = take(x, module, sampling)
    assert torch.equal(samples.x.transpose(1, 2), x.reshape(3, -1, 5))
    assert (samples.cells, samples.grid) == (1, ())


@pytest.mark.parametrize("sampling", ["pixel", "patch", "flatten", "dual"])
def test_folded_rows(sampling: str) -> None:
    x = numbers(3, 12)
    positions = np.array([[0, 1, 2], [6, 7, 8], [9, 10, 11], [3, 4, 5]])
    consumer = Consumer("consumer", 12, positions)
    options = {"images": 1, "batch": 0, "feature_limit": 8}
    samples = take_samples(x, nn.Linear(12, 2), consumer, Sampling.parse(sampling), **options)
    flat = sampling in ("flatten", "dual")
    assert samples.x.shape == ((3, 12, 1) if flat else (3, 4, 3))
    assert samples.cells == (3 if flat else 1)
    for feature, places in enumerate(positions):
        for cell, place in enumerate(places):
            at = (feature * 3 + cell, 0) if flat else (feature, cell)
            assert torch.equal(samples.x[:, at[0], at[1]], x[:, place])


# A teacher's maps at the samples -------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 9), (14, 18), (3, 4), (1, 1)])
def test_maps_are_averaged_to_the_consumer_s_grid(size: tuple[int, int]) -> None:
    x, maps = numbers(2, 4, 7, 9), numbers(2, 3, *size, seed=1)
    found = take(x, nn.Conv2d(4, 6, 1), "pixel").at(maps)
    assert found.shape == (2, 3, 63)
    for row in range(7):  # adaptive average pooling, from its definition
        rows = slice(row * size[0] // 7, -(-(row + 1) * size[0] // 7))
        for column in range(9):
            columns = slice(column * size[1] // 9, -(-(column + 1) * size[1] // 9))
            cell = maps[:, :, rows, columns].mean((2, 3))
            torch.testing.assert_close(found[:, :, row * 9 + column], cell)


def test_maps_at_random_patches_are_those_of_the_patch_s_centre() -> None:
    x, module = numbers(3, 4, 7, 9), nn.Conv2d(4, 6, 3, padding=1)
    for count in (5, 10**9):
        samples = patches(x, module, count, seed=0)
        centre = samples.x.view(3, 4, 9, -1)[:, :, 4]
        assert torch.equal(samples.at(x), centre)


def test_maps_for_what_has_no_grid_are_averaged() -> None:
    maps = numbers(3, 2, 4, 6)
    mean = maps.mean((2, 3))
    for samples in (
        take(numbers(3, 4, 7, 9), nn.Conv2d(4, 6, 3), "flatten"),
        take(numbers(3, 5, 8), nn.Linear(8, 2), "pixel"),
    ):
        found = samples.at(maps)
        torch.testing.assert_close(found, mean[:, :, None].expand(-1, -1, samples.x.shape[2]))


def test_maps_of_other_axes_are_refused() -> None:
    samples = take(numbers(3, 4, 9), nn.Conv1d(4, 6, 3), "pixel")
    torch.testing.assert_close(samples.at(numbers(3, 2, 9)), numbers(3, 2, 9))
    with pytest.raises(DataError, match=r"shape \(3, 2, 4, 6\), and a consumer reads maps of 1 sp"):
        samples.at(numbers(3, 2, 4, 6))
