from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.core.errors import ConfigError, DataError, UnknownNameError
from prunus.data import DATASETS, SeededSampler, load_data

PARTS = ("train", "validation", "test")
UNAUGMENTED = ("calibration", "validation", "test")


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, dict]:
    """What to call `load_data` with for every registered data set, small and fast."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for label, name in enumerate(("apple", "cherry", "plum")):
        (root / "fruit" / name).mkdir(parents=True)
        for i in range(10 + 10 * label):
            pixels = random.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "fruit" / name / f"{i}.png")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 240), ("t10k", 40)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes() + images.tobytes()
        )
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + np.array(labels.shape, ">u4").tobytes() + labels.tobytes()
        )
    return {
        "digits": {"name": "digits"},
        "mnist": {"name": "mnist", "data_root": root},
        "folder": {"name": f"folder:{root / 'fruit'}", "input_shape": (3, 16, 16)},
    }


@pytest.fixture(params=list(DATASETS))
def load(request, names):
    return lambda **more: load_data(**{"batch_size": 16, **names[request.param], **more})


def fetch(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def rows(loader) -> set[bytes]:
    return {image.numpy().tobytes() for image in fetch(loader)[0]}


def test_batches_are_what_they_should_be(load):
    data = load()
    assert data.num_classes == len(data.class_names) > 1
    for part in (*PARTS, "calibration"):
        loader = getattr(data, part)
        images, labels = next(iter(loader))
        assert images.shape == (min(16, len(loader.dataset)), *data.input_shape)
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert labels.dtype == torch.int64
        assert torch.isfinite(fetch(loader)[0]).all()
        assert fetch(loader)[1].unique().tolist() == list(range(data.num_classes))
        image, label = loader.dataset[0]
        assert image.shape == data.input_shape
        assert 0 <= int(label) < data.num_classes


def test_splits_are_disjoint_and_cover(load):
    data, other = load(seed=0), load(seed=1)
    parts = [rows(getattr(data, part)) for part in UNAUGMENTED]
    assert rows(data.train) <= parts[0]
    assert len(set.union(*parts)) == sum(len(part) for part in parts)  # disjoint
    assert [len(part) for part in parts] == [len(getattr(data, p).dataset) for p in UNAUGMENTED]
    assert set.union(*parts) == set.union(*(rows(getattr(other, part)) for part in UNAUGMENTED))


def test_splits_are_stratified(load):
    data = load()
    shares = []
    for part in UNAUGMENTED:
        labels = getattr(data, part).dataset
        labels = labels.labels if hasattr(labels, "labels") else labels.files.labels
        shares.append(torch.bincount(labels) / len(labels))
    assert (shares[1] - shares[0]).abs().max() < 0.06
    assert (shares[2] - shares[0]).abs().max() < 0.06


def test_the_same_seed_gives_the_same_and_another_seed_another_validation(load):
    one, two, other = load(seed=0), load(seed=0), load(seed=1)
    for part in (*PARTS, "calibration"):
        for mine, its in zip(fetch(getattr(one, part)), fetch(getattr(two, part)), strict=True):
            assert torch.equal(mine, its)
    assert rows(one.validation) != rows(other.validation)
    assert rows(one.test) == rows(other.test)
    assert torch.equal(fetch(one.test)[0], fetch(other.test)[0])


def test_training_is_shuffled_by_the_epoch(load):
    train = load().train
    assert isinstance(train.sampler, SeededSampler)
    first = fetch(train)[1]
    assert torch.equal(fetch(train)[1], first)
    train.sampler.set_epoch(1)
    assert not torch.equal(fetch(train)[1], first)
    train.sampler.set_epoch(0)
    assert torch.equal(fetch(train)[1], first)


def test_calibration_holds_the_training_images_unaugmented_in_order(load):
    plain, data = load(), load(augment=True)
    images = fetch(data.calibration)[0]
    assert torch.equal(fetch(data.calibration)[0], images)
    assert torch.equal(fetch(plain.calibration)[0], images)
    assert rows(plain.train) <= rows(data.calibration)


def test_augmentation_depends_on_the_global_generator_and_spares_the_rest(load):
    plain, data = load(), load(augment=True)
    torch.manual_seed(0)
    first = fetch(data.train)
    torch.manual_seed(0)
    again = fetch(data.train)
    torch.manual_seed(1)
    other = fetch(data.train)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])
    assert not torch.equal(first[0], fetch(plain.train)[0])
    for part in ("validation", "test"):
        assert torch.equal(fetch(getattr(data, part))[0], fetch(getattr(plain, part))[0])


def test_looking_leaves_the_global_generator_alone(load):
    data = load(augment=True)
    before = torch.get_rng_state()
    for part in ("validation", "test", "calibration"):
        fetch(getattr(data, part))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 20, 24), (1, 5, 5)])
def test_images_come_in_the_shape_asked_for(load, input_shape):
    data = load(input_shape=input_shape, augment=True)
    assert data.input_shape == input_shape
    assert next(iter(data.train))[0].shape[1:] == input_shape


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown data set 'digit'.*digits, folder, mnist"):
        load_data("digit")


def test_names_that_lack_or_have_a_path():
    for name in ("folder", "folder:"):
        with pytest.raises(DataError, match="folder came without a path: write folder:PATH"):
            load_data(name)
    with pytest.raises(DataError, match="mnist takes no path, but 'raw' came"):
        load_data("mnist:raw", data_root=Path("/nonexistent"))


@pytest.mark.parametrize("input_shape", [(28, 28), (1, 0, 28)])
def test_refuses_a_shape_that_is_none(input_shape):
    with pytest.raises(ConfigError, match="expected three positive numbers"):
        load_data("digits", input_shape=input_shape)


def test_refuses_an_empty_batch():
    with pytest.raises(ConfigError, match="batch_size is 0, expected at least 1"):
        load_data("digits", batch_size=0)
