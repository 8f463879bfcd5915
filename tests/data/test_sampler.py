from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from prunus.core.errors import ConfigError
from prunus.data import ClassBalancedBatches, balanced_loader, load_data


@st.composite
def asked(draw):
    counts = draw(st.lists(st.integers(1, 60), min_size=2, max_size=12))
    labels = torch.repeat_interleave(torch.arange(len(counts)) * 3, torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    per_class = draw(st.integers(2, 9))
    batch_size = draw(st.integers(2 * per_class, 12 * per_class))
    fit = min(batch_size // per_class, len(counts))
    classes = draw(st.none() | st.integers(2, fit))
    return labels, batch_size, classes, per_class, draw(st.integers(0, 99))


@settings(max_examples=120, deadline=None)
@given(asked())
def test_batches_are_whole_balanced_and_starve_no_class(case):
    labels, batch_size, classes, per_class, seed = case
    sampler = ClassBalancedBatches(
        labels, batch_size, classes=classes, per_class=per_class, seed=seed
    )
    batches = list(sampler)
    assert len(batches) == len(sampler) == -(-len(labels) // batch_size)
    sizes = {int(label): int((labels == label).sum()) for label in labels.unique()}
    k = classes or min(batch_size // per_class, len(sizes))
    turns: Counter[int] = Counter()
    for batch in batches:
        assert len(batch) == batch_size
        found = Counter(labels[batch].tolist())
        turns.update(found.keys())
        assert len(found) == k
        assert min(found.values()) >= per_class
        assert max(found.values()) - min(found.values()) <= 1
        for label, images in found.items():
            times = Counter(i for i in batch if int(labels[i]) == label)
            rounds, more = divmod(images, sizes[label])
            assert max(times.values()) == rounds + bool(more)
            assert len(times) == min(images, sizes[label])
    came = [turns[label] for label in sizes]
    assert max(came) - min(came) <= 1  # none again before all came
    if len(batches) * k >= len(sizes):
        assert min(came) >= 1
    times = Counter(i for batch in batches for i in batch)
    for label in sizes:
        own = [times[int(i)] for i in torch.nonzero(labels == label)]
        assert max(own) - min(own) <= 1


def test_the_order_depends_on_seed_and_epoch_alone():
    labels = torch.arange(100) % 5
    sampler = ClassBalancedBatches(labels, 32, seed=3)
    torch.manual_seed(0)
    first = list(sampler)
    torch.manual_seed(1)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(ClassBalancedBatches(labels, 32, seed=4)) != first


def test_subsets_of_classes_are_drawn_at_random():
    labels = torch.arange(400) % 10
    batches = list(ClassBalancedBatches(labels, 32, classes=4))
    drawn = {tuple(sorted(labels[batch].unique().tolist())) for batch in batches}
    assert len(drawn) > 5


def test_whole_epochs_of_equal_classes_show_each_image_once():
    labels = torch.arange(120) % 4
    times = Counter(i for batch in ClassBalancedBatches(labels, 40) for i in batch)
    assert set(times) == set(range(120))
    assert set(times.values()) == {1}


@pytest.mark.parametrize(
    ("batch_size", "classes", "sentence"),
    [
        (15, None, "8 images of at least 2 classes, but batch_size is 15: set it to 16 or more"),
        (32, 5, "batches of 5 classes were requested, but 32 images hold at most 4 of the 5"),
        (64, 6, "at most 5 of the 5 classes"),
    ],
)
def test_batches_that_cannot_be_are_refused(batch_size, classes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ClassBalancedBatches(torch.arange(100) % 5, batch_size, classes=classes)


class Listed(TensorDataset):
    """A data set as torchvision's, with its labels in a list."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()

    def __getitem__(self, index):
        return super().__getitem__(index)


def test_a_loader_is_made_balanced_whatever_its_data():
    x, y = torch.randn(90, 3), torch.arange(90) % 3
    found = []
    for data in (Listed(x, y), TensorDataset(x, y)):
        loader = balanced_loader(DataLoader(data, batch_size=30, shuffle=True), seed=5)
        assert isinstance(loader.batch_sampler, ClassBalancedBatches)
        found.append([labels for _, labels in loader])
        for labels in found[-1]:
            assert labels.bincount().tolist() == [10, 10, 10]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    digits = load_data("digits", batch_size=80)
    images, labels = next(iter(balanced_loader(digits.train)))
    assert images.shape == (80, 1, 28, 28)
    assert labels.bincount().tolist() == [8] * 10


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 1)] * 4)


def test_what_cannot_be_numbered_stays_as_it_is():
    pairs = [(torch.zeros(4, 2), torch.zeros(4).long())]
    stream = DataLoader(Stream(), batch_size=16)
    whole = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4)), batch_size=None)
    for loader in (pairs, stream, whole):
        assert balanced_loader(loader) is loader
