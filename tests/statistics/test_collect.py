"""One pass over the data against activations gathered by a hook of our own."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prunus.graph import SelectLinear, find_groups
from prunus.statistics import Statistics, collect
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import CLASSES, NETS, batches, build, images
from tests.statistics.oracles import (
    Loader,
    assert_close,
    assert_equal,
    batches64,
    cells_of,
    drawn,
    gathered,
    inputs_of,
    ready,
    scatter_of,
)

SAMPLINGS = ["pixel", "patch", "pool:2", "flatten", "flatten:2"]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("net", NETS)
def test_every_consumer_is_summed_up(net: str, sampling: str) -> None:
    model, groups = ready(net)
    loader = batches64(2, 4)
    statistics = collect(model, loader, groups, sampling=sampling)
    assert statistics.images == 8
    assert statistics.sampling == sampling
    assert set(statistics) == set(groups.consumers)
    for name, consumer in groups.consumers.items():
        module, x = model.get_submodule(name), inputs_of(model, loader[:1], name)[0]
        cells = cells_of(module, x, sampling, consumer)
        expected = scatter_of(*drawn(model, loader, name, sampling), CLASSES, cells=cells)
        assert_close(statistics[name], expected)


@pytest.mark.parametrize("net", ["plain", "flatten", "token", "transposed"])
def test_float32_activations(net: str) -> None:
    model, loader = build(net), batches(2, 8)
    groups = find_groups(model, images(1))
    for sampling in SAMPLINGS:
        statistics = collect(model, loader, groups, sampling=sampling)
        for name, scatter in statistics.items():
            expected = scatter_of(
                *drawn(model, loader, name, sampling), CLASSES, cells=scatter.cells
            )
            assert_close(scatter, expected, rtol=1e-5)
            scale = float(expected.gram.diagonal().max())
            torch.testing.assert_close(scatter.S, expected.S, rtol=1e-5, atol=1e-6 * scale)
            assert torch.equal(scatter.teacher_total, expected.teacher_total)


class Signal(nn.Module):
    """Convolutions over one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv1d(6, 5, 4, stride=2)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x).relu()).relu().mean(2))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_convolutions_over_one_axis(sampling: str) -> None:
    torch.manual_seed(0)
    model = Signal().double().eval()
    loader = [(x[:, :, 0], y) for x, y in batches64(2, 5)]
    groups = find_groups(model, loader[0][0][:1])
    statistics = collect(model, loader, groups, sampling=sampling)
    cells = {"pixel": 1, "pool:2": 1, "flatten": 10, "flatten:2": 2}.get(sampling)
    for name in ("conv1", "conv2"):
        taps = cells or model.get_submodule(name).kernel_size[0]
        expected = scatter_of(*drawn(model, loader, name, sampling), CLASSES, cells=taps)
        assert_close(statistics[name], expected)


@pytest.mark.parametrize("sampling", ["pixel", "patch", "flatten"])
def test_a_wide_flattened_input_is_folded_to_channels(sampling: str) -> None:
    model, loader = build("flatten").double(), batches64(2, 4)
    groups = find_groups(model, images(1).double(), feature_limit=79)
    assert groups.consumers["fc1"].positions.shape == (5, 16)
    assert [g.name for g in groups.values()] == ["conv1", "fc1"]
    x, y = gathered(model, loader, "fc1")
    expected = scatter_of(x, y, CLASSES, cells=16)
    if sampling != "flatten":
        rows = x.view(-1, 5, 16).transpose(1, 2).flatten(0, 1)
        expected = scatter_of(rows, y.repeat_interleave(16), CLASSES)
    assert_close(collect(model, loader, groups, sampling=sampling)["fc1"], expected)


@pytest.mark.parametrize("net", ["flatten", "mlp"])
def test_a_cut_network_is_summed_over_what_it_reads(net: str) -> None:
    model, loader = build(net).double(), batches64(2, 4)
    replay_(model, random_plan(find_groups(model, images(1).double()), seed=1))
    first = model.get_submodule("fc1")
    assert isinstance(first, SelectLinear)
    groups = find_groups(model, images(1).double())
    x, y = gathered(model, loader, "fc1")
    expected = scatter_of(x[:, first.index.long()], y, CLASSES)
    assert_close(collect(model, loader, groups)["fc1"], expected)


def test_a_nearly_constant_feature_keeps_its_variance() -> None:
    # 5 ± 1e-5: the second moment in float32 cannot tell; sums about the batch mean can.
    model = build("plain")
    model.bn1 = nn.Identity()
    with torch.no_grad():
        model.conv1.bias = nn.Parameter(torch.full((8,), 5.0))
        model.conv1.weight[:4] *= 1e-5
        model.conv1.weight[4] = 0
    groups = find_groups(model, images(1))
    scatter = collect(model, batches(3, 8), groups, sampling="pixel")["conv2"]
    expected = scatter_of(*gathered(model, batches(3, 8), "conv2"), CLASSES)
    torch.testing.assert_close(scatter.scale, expected.scale, rtol=1e-3, atol=0)
    assert scatter.constant.tolist() == [i == 4 for i in range(8)]
    correlation = scatter.S / torch.outer(scatter.scale, scatter.scale)
    assert torch.linalg.eigvalsh(correlation).min() > -1e-6 * scatter.samples
    # Two classes weigh the same in a batch or not: the same sums.
    weighed = collect(model, batches(3, 8), groups, sampling="pixel", balance=True)["conv2"]
    assert weighed.constant.tolist() == scatter.constant.tolist()


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    side=st.integers(5, 9),
    seed=st.integers(0, 99),
    sampling=st.sampled_from(SAMPLINGS),
    blocks=st.integers(1, 9),
)
def test_batches_of_any_size(
    sizes: list[int], side: int, seed: int, sampling: str, blocks: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    loader = [
        (
            torch.randn(n, 3, side, side, generator=generator).double(),
            torch.randint(0, CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]
    model = ready("plain")[0]
    groups = find_groups(model, loader[0][0])
    statistics = collect(model, loader, groups, sampling=sampling, blocks=blocks)
    assert statistics.images == sum(statistics.block_images) == sum(sizes)
    assert statistics.blocks <= blocks
    for name, scatter in statistics.items():
        rows, labels = drawn(model, loader, name, sampling)
        assert_close(scatter, scatter_of(rows, labels, CLASSES, cells=scatter.cells))


def test_batches_limits_the_pass_and_progress_wraps_it() -> None:
    model, groups = ready("mlp")
    seen = []

    def progress(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            seen.append(len(batch[0]))
            yield batch

    assert collect(model, batches64(4, 5), groups, batches=2, progress=progress).images == 10
    assert seen == [5, 5]


# Random positions --------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take about 600 samples, and no more for wide patches."""
    monkeypatch.setattr("prunus.statistics.sampling.LEAST_SAMPLES", 600)
    monkeypatch.setattr("prunus.statistics.sampling.SAMPLES_A_FEATURE", 0)


@pytest.mark.usefixtures("few")
def test_random_positions_are_the_same_each_time() -> None:
    model, groups = ready("residual")
    loader = batches64(4, 30)
    a, b = (collect(model, loader, groups, sampling="patch") for _ in range(2))
    for name in a:
        assert_equal(a[name], b[name])
    assert a["conv1"].samples == 4 * 30 * 5  # ⌈600/120⌉ positions an image
    moved = collect(model, [loader[1], loader[0], *loader[2:]], groups, sampling="patch")
    assert not torch.equal(moved["conv1"].gram, a["conv1"].gram)  # drawn anew for each batch


@pytest.mark.usefixtures("few")
def test_random_positions_stand_for_all() -> None:
    model, groups = ready("residual")
    loader = batches64(8, 40)
    some = collect(model, loader, groups, sampling="patch")["conv2"]
    rows, labels = drawn(model, loader, "conv2", "patch")
    every = scatter_of(rows[::7], labels[::7], CLASSES, cells=9)
    assert some.samples == 8 * 40 * 2
    mean = every.total / every.samples
    error = every.scale / some.samples**0.5
    assert ((some.total / some.samples - mean).abs() < 5 * error).all()
    second, all_second = some.gram / some.samples, every.gram / every.samples
    assert (second - all_second).norm() < 0.2 * all_second.norm()
    # Each image has as many positions: classes keep their shares exactly.
    share = torch.bincount(labels, minlength=CLASSES) / len(labels)
    torch.testing.assert_close(some.teacher_total / some.samples, share.double())


# What does not run, or writes where it reads -----------------------------------------------


class Either(nn.Module):
    """Bright and dark images go through different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.bright = nn.Conv2d(6, 5, 1)
        self.dark = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bright if x.mean() > 0 else self.dark
        return self.head(branch(self.stem(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("teacher", [CLASSES, "logits"])
@pytest.mark.parametrize("sampling", ["patch", "flatten"])
def test_a_module_that_runs_for_some_batches_only(teacher: int | str, sampling: str) -> None:
    torch.manual_seed(0)
    model = Either().double().eval()
    shift = (1, -1, -1)
    loader = [(x + s, y) for (x, y), s in zip(batches64(3, 4), shift, strict=True)]
    both = find_groups(model, loader[0][0])
    dark = find_groups(model, loader[1][0])
    groups = copy.copy(both)
    object.__setattr__(groups, "consumers", {**both.consumers, **dark.consumers})
    statistics = collect(model, loader, groups, teacher, sampling=sampling, blocks=3)
    for name, taken in {"bright": loader[:1], "dark": loader[1:], "stem": loader}.items():
        part = collect(model, taken, groups, teacher, sampling=sampling, blocks=1)
        assert_close(statistics[name], part[name], rtol=1e-12)
    assert statistics.leave_out(0)["bright"].samples == 0
    nothing = collect(model, loader[:1], groups, teacher, sampling=sampling)["dark"]
    assert not nothing.gram.any()
    assert nothing.samples == 0


class Stream(nn.Module):
    """A residual stream that is added to, in place or not, after it was read."""

    inplace = True

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.inplace:
            x += self.branch(x)
            x.relu_()
        else:
            x = (x + self.branch(x)).relu()
        return self.head(x).mean((2, 3))


@pytest.mark.parametrize("kind", ["classes", "maps", "logits"])
def test_a_network_that_writes_into_what_it_read(kind: str) -> None:
    torch.manual_seed(0)
    model = Stream().double().eval()
    loader = batches64(2, 4)
    if kind == "maps":
        loader = [(x, x[:, :2].clone()) for x, _ in loader]
    teacher = {"classes": CLASSES, "maps": "targets", "logits": "logits"}[kind]
    found: list[Statistics] = []
    for inplace in (True, False):
        model.inplace = inplace
        groups = find_groups(model, loader[0][0])
        found.append(collect(model, loader, groups, teacher))
    for name in found[0]:
        assert_equal(found[0][name], found[1][name])
