import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from prunus.core.errors import DataError
from prunus.data import SeededSampler, split_stratified
from prunus.data.splits import make_splits


@st.composite
def labelled(draw):
    counts = draw(st.lists(st.integers(2, 30), min_size=1, max_size=8))
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    size = draw(st.integers(len(counts), len(labels) - len(counts)))
    return torch.tensor(labels[order]), torch.tensor(counts), size


@settings(max_examples=150, deadline=None)
@given(labelled(), st.integers(0, 2**63 - 1))
def test_a_stratified_split_covers_is_disjoint_and_proportional(case, seed):
    labels, counts, size = case
    rest, part = split_stratified(labels, size, seed)
    assert len(part) == size
    assert sorted([*rest.tolist(), *part.tolist()]) == list(range(len(labels)))
    assert rest.tolist() == sorted(rest.tolist())
    taken = torch.bincount(labels[part], minlength=len(counts))
    assert (taken >= 1).all()
    assert (taken < counts).all()
    quota = size * counts / len(labels)
    if ((quota >= 1) & (quota <= counts - 1)).all():
        assert (taken >= quota.floor()).all()
        assert (taken <= quota.ceil()).all()
    again = split_stratified(labels, size, seed)
    assert torch.equal(again[0], rest)
    assert torch.equal(again[1], part)
    other = split_stratified(labels, size, seed ^ 1)[1]
    assert torch.equal(torch.bincount(labels[other], minlength=len(counts)), taken)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 40), min_size=2, max_size=8), st.integers(0, 999))
def test_three_images_a_class_are_enough_for_three_splits(counts, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    size = max(len(counts), round(0.15 * len(labels)))
    rest, test = split_stratified(labels, size, 0)
    train, validation = split_stratified(labels[rest], size, seed)
    for part in (labels[test], labels[rest][train], labels[rest][validation]):
        assert part.unique().tolist() == list(range(len(counts)))


def test_another_seed_takes_other_images():
    labels = torch.arange(100) % 5
    assert not torch.equal(split_stratified(labels, 20, 0)[1], split_stratified(labels, 20, 1)[1])


@pytest.mark.parametrize(
    ("labels", "size"), [([0, 0, 1, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 1], 1), ([], 1)]
)
def test_a_split_that_cannot_be_is_refused(labels, size):
    with pytest.raises(DataError, match="cannot be split into"):
        split_stratified(torch.tensor(labels).long(), size, 0)


def test_the_sampler_depends_on_seed_and_epoch_alone():
    sampler = SeededSampler(range(50), seed=3)
    torch.manual_seed(0)
    first = list(sampler)
    torch.manual_seed(1)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    assert sorted(second) == list(range(50))
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(SeededSampler(range(50), seed=4)) != first
    assert len(sampler) == 50


@pytest.mark.parametrize(
    ("count", "batch_size", "batches"),
    [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1])],
)
def test_only_training_drops_a_last_batch_of_one(count, batch_size, batches):
    part = TensorDataset(torch.zeros(count, 1, 2, 2), torch.zeros(count).long())
    splits = make_splits(
        name="zeros",
        datasets=dict.fromkeys(("train", "calibration", "validation", "test"), part),
        class_names=("a", "b"),
        input_shape=(1, 2, 2),
        batch_size=batch_size,
        seed=0,
    )
    assert [len(y) for _, y in splits.train] == batches
    for loader in (splits.calibration, splits.validation, splits.test):
        assert sum(len(y) for _, y in loader) == count
