"""Blocks, leaving one out, merging, and the features that units own."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import PlanError
from prunus.graph import find_groups
from prunus.statistics import Statistics, collect
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import CLASSES, NETS, Flatten, batches, build, images
from tests.statistics.oracles import (
    Loader,
    assert_close,
    assert_equal,
    batches64,
    drawn,
    ready,
    scatter_of,
)

# Blocks ------------------------------------------------------------------------------------


def blocks_of(sizes: list[int], K: int, known: bool) -> list[list[int]]:
    """Return the images of each block: whole batches in turn, or the parts of each batch."""
    blocks: list[list[int]] = [[] for _ in range(K)]
    first = 0
    for number, size in enumerate(sizes):
        parts = 1 if known and len(sizes) >= K else min(size, K)
        for part in range(parts):
            low, high = size * part // parts, size * (part + 1) // parts
            blocks[(number * parts + part) % K] += range(first + low, first + high)
        first += size
    return [block for block in blocks if block]


def only(loader: Loader, kept: list[int]) -> Loader:
    """Return the batches with the images `kept` alone."""
    chosen, first = [], 0
    for x, y in loader:
        index = [i - first for i in kept if first <= i < first + len(x)]
        if index:
            chosen.append((x[index], y[index]))
        first += len(x)
    return chosen


@pytest.mark.parametrize(
    ("sizes", "K", "known", "count"),
    [
        ([4, 4, 4], 8, True, 8),  # few batches: each is split
        ([4] * 9, 4, True, 4),  # many: whole ones in turn
        ([4] * 9, 4, False, 4),  # nobody knows: each is split
        ([4, 4, 4], 3, True, 3),
        ([3], 8, True, 3),  # fewer images than blocks
        ([1, 1], 8, False, 2),
        ([7], 2, True, 2),
        ([4, 3], 1, True, 1),
    ],
)
def test_blocks(sizes: list[int], K: int, known: bool, count: int) -> None:
    model, groups = ready("plain")
    loader = [(x[:n], y[:n]) for (x, y), n in zip(batches64(len(sizes), 8), sizes, strict=True)]
    data = loader if known else (batch for batch in loader)
    statistics = collect(model, data, groups, sampling="pixel", blocks=K)
    expected = blocks_of(sizes, K, known)
    assert statistics.blocks == len(expected) == count
    assert list(statistics.block_images) == [len(block) for block in expected]
    assert statistics.images == sum(sizes)
    for name, scatter in statistics.items():
        assert_close(scatter, scatter_of(*drawn(model, loader, name, "pixel"), CLASSES))
    for k in range(count if count > 1 else 0):
        rest = only(loader, [i for j, block in enumerate(expected) if j != k for i in block])
        left = statistics.leave_out(k)
        assert left.images == sum(len(y) for _, y in rest)
        assert left.blocks == count - 1
        for name, scatter in left.items():
            assert_close(scatter, scatter_of(*drawn(model, rest, name, "pixel"), CLASSES))


@pytest.mark.parametrize("sampling", ["patch", "flatten"])
def test_leaving_a_block_out_is_not_having_collected_it(sampling: str) -> None:
    model, groups = ready("residual")
    loader = batches64(5, 4)
    statistics = collect(model, loader, groups, sampling=sampling, blocks=3)
    for k in range(3):
        rest = [batch for i, batch in enumerate(loader) if i % 3 != k]
        expected = collect(model, rest, groups, sampling=sampling, blocks=1)
        left = statistics.leave_out(k)
        assert left.images == expected.images
        assert left.sampling == sampling
        for name in expected:
            assert_close(left[name], expected[name], rtol=1e-12)
        sizes = [n for j, n in enumerate(statistics.block_images) if j != k]
        assert [left.leave_out(j).images for j in (1, 0)] == sizes  # the one that is left


def test_there_must_be_something_left() -> None:
    model, groups = ready("mlp")
    one = collect(model, batches64(2, 4), groups, blocks=1)
    with pytest.raises(PlanError, match="at least 2 blocks, these are one"):
        one.leave_out(0)
    two = collect(model, batches64(2, 4), groups, blocks=2)
    with pytest.raises(PlanError, match="unknown block 2: the blocks are 0 to 1"):
        two.leave_out(2)
    assert two.leave_out(0).blocks == 1


# Merging -----------------------------------------------------------------------------------


@settings(max_examples=8)
@given(
    net=st.sampled_from(["concat", "plain", "token", "flatten"]),
    cut=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 8), min_size=5, max_size=5),
    K=st.integers(1, 6),
    sampling=st.sampled_from(["pixel", "patch"]),
)
def test_two_parts_merge_to_the_whole(net, cut, sizes, K, sampling) -> None:
    model, groups = ready(net)
    loader = [(x[:n], y[:n]) for (x, y), n in zip(batches64(5, 8), sizes, strict=True)]
    options = {"sampling": sampling, "blocks": K}
    whole = collect(model, loader, groups, **options)
    a, b = (collect(model, part, groups, **options) for part in (loader[:cut], loader[cut:]))
    for merged in (a.merge(b), b.merge(a)):
        assert merged.images == sum(merged.block_images) == whole.images
        assert merged.blocks == max(a.blocks, b.blocks)
        for name in whole:
            assert_close(merged[name], whole[name], rtol=1e-12)


@pytest.mark.parametrize("net", ["plain", "flatten", "token"])
def test_float32_halves_merge_to_the_whole(net: str) -> None:
    model, loader = build(net), batches(4, 8)
    groups = find_groups(model, images(1))
    options = {"sampling": "pixel", "blocks": 2}
    whole = collect(model, loader, groups, **options)
    a, b = (collect(model, part, groups, **options) for part in (loader[:2], loader[2:]))
    for name in whole:
        assert_close(a.merge(b)[name], whole[name], rtol=1e-12)


def test_merging_keeps_blocks_apart() -> None:
    model, groups = ready("mlp")
    loader = batches64(5, 4)
    a, b = (collect(model, part, groups, blocks=3) for part in (loader[:3], loader[3:]))
    # b's two batches were split in three: images 0, 1 and 2–3 of each.
    merged = a.merge(b)
    for k, part in enumerate((slice(0, 1), slice(1, 2), slice(2, 4))):
        rest = [batch for i, batch in enumerate(loader[:3]) if i != k]
        kept = [i for i in range(4) if i not in range(4)[part]]
        rest += [(x[kept], y[kept]) for x, y in loader[3:]]
        expected = collect(model, rest, groups, blocks=1)
        assert merged.leave_out(k).images == expected.images
        for name in expected:
            assert_close(merged.leave_out(k)[name], expected[name], rtol=1e-12)


def test_statistics_that_do_not_merge() -> None:
    wide = build("flatten")
    narrow = replay_(copy.deepcopy(wide), random_plan(find_groups(wide, images(1)), seed=1))
    a, b = (collect(m, batches(1), find_groups(m, images(1))) for m in (wide, narrow))
    with pytest.raises(PlanError, match="cannot merge scatters"):
        a.merge(b)
    assert isinstance(wide, Flatten)
    groups = a.groups
    with pytest.raises(PlanError, match="sampled by 'pixel' with 'patch'"):
        a.merge(collect(wide, batches(1), groups, sampling="patch"))
    with pytest.raises(PlanError, match="one alone has module 'conv1' or its output"):
        a.merge(collect(wide, batches(1), groups, ranges=True))
    other = build("plain")
    with pytest.raises(PlanError, match="which one alone has module 'conv2'"):
        a.merge(collect(other, batches(1), find_groups(other, images(1))))


def test_a_mapping_of_consumers() -> None:
    model, groups = ready("plain")
    statistics = collect(model, batches64(2, 4), groups)
    assert list(statistics) == list(groups.consumers)
    assert len(statistics) == len(groups.consumers)
    assert "conv2" in statistics
    assert "bn1" not in statistics
    assert statistics["conv2"] is statistics["conv2"]  # summed once
    assert not Statistics([{}], groups, 0)


# Features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["pixel", "patch", "flatten", "flatten:2"])
@pytest.mark.parametrize("net", NETS)
def test_features_that_units_own(net: str, sampling: str) -> None:
    model, groups = ready(net)
    statistics = collect(model, batches64(1, 4), groups, sampling=sampling)
    for group in groups.values():
        for member in group.consumers:
            if member.module not in groups.consumers:  # a depthwise convolution mixes nothing
                continue
            consumer = groups.consumers[member.module]
            cells = statistics[member.module].cells
            found = statistics.features(member.module, member.index)
            assert found.dtype == np.int64
            assert len(found) == group.units
            owned = []
            for unit in member.index.tolist():
                own = [f for f, places in enumerate(consumer.positions) if set(places) & set(unit)]
                owned.append({f * cells + t for f in own for t in range(cells)})
            assert found.shape[1] == max(1, *map(len, owned))
            for row, expected in zip(found.tolist(), owned, strict=True):
                assert set(row[: len(expected)]) == expected
                assert row[len(expected) :] == [-1] * (found.shape[1] - len(expected))


def test_features_of_units_of_unlike_size() -> None:
    model, groups = ready("plain")
    statistics = collect(model, batches64(1, 4), groups, sampling="patch")
    index = np.array([[1, 0], [2, 2], [3, 3]])
    found = statistics.features("conv2", index)
    assert found.shape == (3, 18)
    assert sorted(found[0]) == list(range(18))
    assert found[1].tolist() == [*range(18, 27)] + [-1] * 9


def test_features_of_a_folded_input() -> None:
    model = ready("flatten")[0]
    groups = find_groups(model, images(1).double(), feature_limit=79)
    member = next(m for m in groups["conv1"].consumers if m.module == "fc1")
    for sampling, cells in (("pixel", 1), ("flatten", 16)):
        statistics = collect(model, batches64(1, 4), groups, sampling=sampling)
        found = statistics.features("fc1", member.index)
        assert found.shape == (5, cells)
        for unit, row in enumerate(found):
            feature = groups.consumers["fc1"].feature_of[member.index[unit, 0]]
            assert row.tolist() == [feature * cells + t for t in range(cells)]


def test_the_same_call_gives_the_same_bytes() -> None:
    for net in ("plain", "token"):
        model = build(net)
        groups = find_groups(model, images(1))
        a, b = (collect(model, batches(3, 8), groups, gradients=True) for _ in range(2))
        for name in a:
            assert_equal(a[name], b[name])
            assert torch.equal(a.outputs[name].gradient, b.outputs[name].gradient)
