from pathlib import Path

import pytest
import torch
import torchvision

from prunus.core.errors import ConfigError, DataError, UnknownNameError
from prunus.data import DATASETS, DataEntry, SeededSampler, find_data, load_data
from tests.data.layouts import WRITERS

PARTS = ("train", "validation", "test")
UNAUGMENTED = ("calibration", "validation", "test")


def entries() -> list[tuple[str, DataEntry]]:
    return [(name, DATASETS[name]) for name in DATASETS]


CLASSIFIERS = [name for name, entry in entries() if entry.task == "classification"]
ARGUMENTS = {"folder": "PATH", "lfwa": "Male", "adience": "age"}
PUBLISHED = ("flowers102", "lfwa", "adience")  # their validation, too: no seed splits them


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data_root that holds every data set that can be missing."""
    root = tmp_path_factory.mktemp("data")
    for write in WRITERS.values():
        write(root)
    return root


def call(kind: str, root: Path) -> dict:
    """What to call `load_data` with."""
    argument = str(root / "fruit") if kind == "folder" else ARGUMENTS.get(kind)
    name = f"{kind}:{argument}" if argument else kind
    small = DATASETS[kind].input_shape == (3, 224, 224)
    return {"name": name, "data_root": root} | ({"input_shape": (3, 16, 16)} if small else {})


@pytest.fixture(params=CLASSIFIERS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def load(kind, root):
    return lambda **more: load_data(**{"batch_size": 16, **call(kind, root), **more})


def fetch(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def rows(loader) -> set[bytes]:
    return {image.numpy().tobytes() for image in fetch(loader)[0]}


def test_batches_are_what_they_should_be(load):
    data = load()
    assert data.task == "classification"
    assert data.scale == 1
    assert len(set(data.class_names)) == data.num_classes
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


def test_splits_are_stratified(load, kind):
    if kind in PUBLISHED:
        return  # as published
    data = load()
    shares = []
    for part in UNAUGMENTED:
        labels = getattr(data, part).dataset
        labels = labels.labels if hasattr(labels, "labels") else labels.files.labels
        shares.append(torch.bincount(labels) / len(labels))
    assert (shares[1] - shares[0]).abs().max() < 0.06
    assert (shares[2] - shares[0]).abs().max() < 0.06


def test_the_same_seed_gives_the_same_and_another_seed_another_validation(load, kind):
    one, two, other = load(seed=0), load(seed=0), load(seed=1)
    for part in (*PARTS, "calibration"):
        for mine, its in zip(fetch(getattr(one, part)), fetch(getattr(two, part)), strict=True):
            assert torch.equal(mine, its)
    assert (rows(one.validation) == rows(other.validation)) == (kind in PUBLISHED)
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


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_that_cannot_be_made_are_refused(load, kind, channels):
    if kind in ("digits", "mnist"):  # grey is repeated to any number
        images = next(iter(load(input_shape=(channels, 8, 8)).test))[0]
        assert torch.equal(images[:, 0], images[:, channels - 1])
        return
    with pytest.raises(DataError, match=f"channels, {channels} were requested: set"):
        load(input_shape=(channels, 8, 8), augment=True)


def test_what_the_registry_says_is_so(kind, root):
    entry = DATASETS[kind]
    default = load_data(**{**call(kind, root), "input_shape": None})
    assert default.input_shape == entry.input_shape
    if entry.num_classes and kind != "imagenet":  # a part of whose classes will do
        assert default.num_classes == entry.num_classes
    for line in (entry.source, entry.terms):
        assert line
        assert "\n" not in line
    assert all(count > 0 for count in entry.sizes.values())
    assert entry.needs_argument == (kind in ARGUMENTS)


def test_a_published_size_is_never_smaller_than_its_parts():
    sizes = {name: sum(entry.sizes.values()) for name, entry in entries()}
    assert sizes["mnist"] == 70_000
    assert sizes["cifar10"] == sizes["cifar100"] == 60_000
    assert sizes["svhn"] == 630_420
    assert sizes["flowers102"] == 8_189
    assert sizes["imagenet"] == 1_331_167
    assert sizes["lfwa"] == 13_143


def test_what_is_there_is_found_and_what_is_not_is_not(kind, root, tmp_path):
    name = call(kind, root)["name"]
    found = find_data(name, root)
    assert found is not None
    assert found.is_dir()
    if kind == "digits":  # comes with scikit-learn
        return
    elsewhere = name.replace(str(root), str(tmp_path))
    assert find_data(elsewhere, tmp_path) is None


@pytest.mark.parametrize("kind", [name for name in CLASSIFIERS if DATASETS[name].get])
def test_missing_data_say_where_to_get_them_and_where_to_put_them(kind, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network.\nAt all")

    for name in ("MNIST", "CIFAR10", "CIFAR100", "SVHN", "Flowers102"):
        monkeypatch.setattr(torchvision.datasets, name, fail)
    entry = DATASETS[kind]
    with pytest.raises(DataError, match="is incomplete") as caught:
        load_data(**call(kind, tmp_path))
    unasked = str(caught.value)
    with pytest.raises(DataError) as caught:
        load_data(**call(kind, tmp_path), download=True)
    message = str(caught.value)
    assert "\n" not in message + unasked
    assert f"{kind} is incomplete in {tmp_path / entry.place}" in message
    assert f"get it from {entry.get}, put " in message
    assert message.endswith(" there, or name another data_root")
    downloadable = kind not in ("imagenet", "lfwa", "adience")
    assert ("could not be downloaded (no network)" in message) == downloadable
    asked = "and is downloaded only if you ask for it (--download, download=True): get it from"
    assert (asked in unasked) == downloadable
    assert not any(tmp_path.iterdir())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UnknownNameError,
        match=r"unknown data set 'digit'.*digits,.* flowers102, folder, imagenet, lfwa, mnist",
    ):
        load_data("digit")


def test_names_that_lack_or_have_a_path():
    for name in ("folder", "folder:"):
        with pytest.raises(DataError, match="folder was given without its PATH: write folder:PATH"):
            load_data(name)
    with pytest.raises(DataError, match="mnist takes nothing after its name, but was given 'raw'"):
        load_data("mnist:raw", data_root=Path("/nonexistent"))


@pytest.mark.parametrize("input_shape", [(28, 28), (1, 0, 28)])
def test_refuses_a_shape_that_is_none(input_shape):
    with pytest.raises(ConfigError, match="expected three positive numbers"):
        load_data("digits", input_shape=input_shape)


def test_refuses_an_empty_batch():
    with pytest.raises(ConfigError, match="batch_size is 0, expected at least 1"):
        load_data("digits", batch_size=0)
