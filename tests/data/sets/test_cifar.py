import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from prunus.core.errors import DataError
from prunus.data import find_data, load_data
from prunus.data.files import cifar_compact
from prunus.data.files.cifar_pickles import read_pickles
from prunus.models.build import build_model
from tests.data.layouts import (
    pickle_as_python2,
    pixels,
    write_cifar10,
    write_cifar100,
    write_compact,
)

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN10 = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
OWN100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cifar10(tmp_path)
    return tmp_path


def test_the_planes_of_a_row_become_the_channels_of_an_image(root):
    data = load_data("cifar10", data_root=root)
    sizes = [len(getattr(data, part).dataset) for part in ("train", "validation", "test")]
    assert sizes == [108, 12, 20]
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.parents is None
    raw = pixels(20, 3072, seed=5)
    expected = raw.reshape(20, 3, 32, 32)  # red, green, blue, each by rows
    assert np.array_equal(data.test.dataset.images.numpy(), expected)
    assert data.test.dataset.labels.tolist() == [(i + 5) % 10 for i in range(20)]


def test_pickles_of_python_3_are_read_too(root):
    folder = root / "cifar-10-batches-py"
    before = read_pickles(folder, 10)
    for path in folder.iterdir():
        held = pickle.loads(path.read_bytes(), encoding="latin1")
        path.write_bytes(pickle.dumps(held, protocol=2))
    after = read_pickles(folder, 10)
    for one, two in zip((*before.train, *before.test), (*after.train, *after.test), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("cifar10", IMAGENET),
        ("cifar10:norm=imagenet", IMAGENET),
        ("cifar10:norm", OWN10),
        ("cifar10:norm=own", OWN10),
        ("cifar10:cutout,norm=own", OWN10),
        ("cifar100", OWN100),
        ("cifar100:norm=imagenet", IMAGENET),
    ],
)
def test_normalised_by_the_constants_asked_for(root, name, constants):
    write_cifar100(root)
    data = load_data(name, data_root=root)
    assert data.name == name
    raw = data.test.dataset.images.double() / 255
    mean, std = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in constants)
    x = torch.cat([x for x, _ in data.test])
    torch.testing.assert_close(x.double(), (raw - mean) / std, atol=1e-5, rtol=1e-5)


def test_options_do_not_change_the_split(root):
    plain, other = (load_data(f"cifar10{o}", data_root=root) for o in ("", ":cutout,norm=own"))
    assert torch.equal(plain.validation.dataset.images, other.validation.dataset.images)


def test_augmented_images_are_cropped_and_mirrored(root):
    data = load_data("cifar10", data_root=root, augment=True).train.dataset
    x = torch.zeros(300, 3, 32, 32)
    x[..., 10, 20] = 1
    torch.manual_seed(0)
    y = data.augment(x)
    places = torch.nonzero(y[:, 0])
    assert len(places) == 300
    assert set(places[:, 1].tolist()) == set(range(6, 15))
    assert set(places[:, 2].tolist()) == {*range(16, 25), *range(7, 16)}  # 31 - (16 … 24)
    assert torch.equal(y[:, 0], y[:, 2])


@pytest.mark.parametrize(("option", "side"), [("cutout", 16), ("cutout=8", 8), ("cutout=0", 0)])
@pytest.mark.parametrize("scale", [1, 2])
def test_cutout_fills_a_square_with_the_mean(root, option, side, scale):
    shape = (3, 32 * scale, 32 * scale)
    data = load_data(f"cifar10:{option}", data_root=root, augment=True, input_shape=shape)
    data.train.dataset.images.fill_(255)
    torch.manual_seed(0)
    x, _ = data.train.dataset.__getitems__(list(range(108)))
    filled = x == 0  # the mean, normalised
    assert torch.equal(filled[:, 0], filled[:, 1])
    assert torch.equal(filled[:, 0], filled[:, 2])
    areas = filled[:, 0].sum((1, 2))
    whole = (side * scale) ** 2
    assert int(areas.max()) == whole
    assert int(areas.min()) >= whole // 4
    assert not (next(iter(data.calibration))[0] == 0).any()


def test_cutout_of_grey_images(root):
    data = load_data("cifar10:cutout", data_root=root, augment=True, input_shape=(1, 32, 32))
    data.train.dataset.images.fill_(255)
    torch.manual_seed(0)
    x, _ = data.train.dataset.__getitems__(list(range(50)))
    assert int((x == 0).sum((1, 2, 3)).max()) == 256


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "cut",
            "takes cutout and norm after its name, but was given 'cut': write cifar10:cut",
        ),
        ("cutout=4,cutout=5", "cifar10 was given cutout twice"),
        ("cutout=-1", "cutout=-1: expected a side of 0 to 32 pixels"),
        ("cutout=33", "cutout=33: expected a side of 0 to 32"),
        ("norm=mine", "norm=mine: choose one of imagenet, own"),
    ],
)
def test_odd_options_are_refused_before_anything_is_looked_for(tmp_path, argument, sentence):
    with pytest.raises(DataError, match=sentence):
        load_data(f"cifar10:{argument}", data_root=tmp_path / "nowhere")


def test_fine_classes_know_their_coarse_ones(tmp_path):
    write_cifar100(tmp_path)
    data = load_data("cifar100", data_root=tmp_path)
    assert data.parents == tuple(7 * fine % 20 for fine in range(100))
    assert data.class_names[42] == "fine 42"
    assert data.parent_names == tuple(f"coarse {i}" for i in range(20))


def rewrite(path: Path, **more) -> None:
    held = pickle.loads(path.read_bytes(), encoding="latin1") | more
    path.write_bytes(pickle_as_python2(held))


@pytest.mark.parametrize(
    ("file", "more", "sentence"),
    [
        ("train", {"data": [1, 2]}, "no image bytes"),
        ("train", {"data": pixels(1000, 3071)}, "images of 3071 bytes, expected 3072"),
        ("test", {"fine_labels": [1]}, "1 fine_labels, expected one for each of 100"),
        ("test", {"data": pixels(0, 3072), "fine_labels": []}, "one for each of 0"),
        ("test", {"fine_labels": [100] * 100}, "fine_labels up to 100, expected 0 to 99"),
        ("train", {"coarse_labels": [20] * 1000}, "coarse_labels up to 20, expected 0 to 19"),
        ("train", {"coarse_labels": [0, 1] * 499 + [2] * 2}, "fine classes with two coarse ones"),
        (
            "train",
            {"fine_labels": [5] * 1000, "coarse_labels": [0] * 1000},
            "no image of class 0, expected images of all 100",
        ),
        ("meta", {"fine_label_names": ["a"]}, "1 fine_label_names, expected 100"),
        ("meta", {"coarse_label_names": []}, "0 coarse_label_names, expected 20"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, file, more, sentence):
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-python" / file
    rewrite(path, **more)
    with pytest.raises(DataError, match=rf"cifar-100-python/{file} holds .*{sentence}"):
        load_data("cifar100", data_root=tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cannot be read"),
        (b"no pickle", "cannot be read"),
        (pickle.dumps([1], protocol=2), "holds a list, expected a dictionary"),
        (pickle.dumps(Evil(), protocol=2), "refers to .*print, which is not data"),
        (pickle_as_python2({"data": pixels(9, 3072)})[:-9], "cannot be read"),
    ],
)
def test_a_broken_or_hostile_pickle_is_refused(root, capsys, content, sentence):
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_3 .*{sentence}"):
        load_data("cifar10", data_root=root)
    assert capsys.readouterr().out == ""


def test_the_compact_form_is_decoded_to_the_bit(tmp_path, monkeypatch):
    written = write_compact(tmp_path, monkeypatch)
    assert find_data("cifar10", tmp_path) == tmp_path / "cifar10"
    data = load_data("cifar10", data_root=tmp_path)
    images, labels = written["test"]
    assert np.array_equal(data.test.dataset.images.permute(0, 2, 3, 1).numpy(), images)
    assert data.test.dataset.labels.tolist() == labels.tolist()
    rest = np.concatenate([data.train.dataset.images, data.validation.dataset.images])
    every = {image.tobytes() for image in rest.transpose(0, 2, 3, 1)}
    assert every == {image.tobytes() for image in written["train"][0]}


def test_the_published_pickles_come_first(root, monkeypatch):
    write_compact(root, monkeypatch)
    assert find_data("cifar10", root) == root / "cifar-10-batches-py"
    labels = load_data("cifar10", data_root=root).test.dataset.labels
    assert labels.tolist() == [(i + 5) % 10 for i in range(20)]


def test_other_pixels_or_labels_are_refused(tmp_path, monkeypatch):
    write_compact(tmp_path, monkeypatch)
    path = tmp_path / "cifar10" / "test.npz"
    with np.load(path) as part:
        held = dict(part)
    np.savez(path, **held | {"labels": np.roll(held["labels"], 1)})
    with pytest.raises(DataError, match=r"holds labels for test with the SHA-256 .*: copy the"):
        load_data("cifar10", data_root=tmp_path)
    np.savez(path, **held | {"offsets": held["offsets"][:-1]})
    with pytest.raises(DataError, match=r"holds images for test with the SHA-256"):
        load_data("cifar10", data_root=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "text", "no labels", "no image"])
def test_a_broken_part_is_named(tmp_path, monkeypatch, damage):
    write_compact(tmp_path, monkeypatch)
    path = tmp_path / "cifar10" / "train_4.npz"
    with np.load(path) as part:
        held = dict(part)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_bytes(b"no zip")
    elif damage == "no labels":
        np.savez(path, data=held["data"], offsets=held["offsets"])
    else:
        np.savez(path, **held | {"data": held["data"] * 0})
    with pytest.raises(DataError, match=r"train_4\.npz cannot be read \([^\n]+\): copy it again$"):
        load_data("cifar10", data_root=tmp_path)


@pytest.mark.parametrize(("name", "write"), [("10", write_cifar10), ("100", write_cifar100)])
def test_what_is_missing_is_downloaded(tmp_path, monkeypatch, name, write):
    asked = []

    def download(root, download):
        asked.append((root, download))
        write(root)

    monkeypatch.setattr(torchvision.datasets, f"CIFAR{name}", download)
    assert load_data(f"cifar{name}", data_root=tmp_path, download=True).num_classes == int(name)
    assert asked == [(tmp_path, True)]
    load_data(f"cifar{name}", data_root=tmp_path)
    assert len(asked) == 1


def test_half_a_data_set_is_none(root):
    (root / "cifar-10-batches-py" / "batches.meta").unlink()
    assert find_data("cifar10", root) is None


def test_the_real_cifar10(shared_data):
    """Five hundred images suffice: over all 10 000 the accuracy is 91.73 %, as published."""
    data = load_data("cifar10", data_root=shared_data, batch_size=250)
    parts = ("train", "validation", "test")
    counts = [torch.bincount(getattr(data, part).dataset.labels).tolist() for part in parts]
    assert counts == [[4_500] * 10, [500] * 10, [1_000] * 10]
    assert data.class_names == cifar_compact._CLASSES
    pixels = data.validation.dataset.images.double() / 255
    for measured, own in zip((pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))), OWN10, strict=True):
        assert (measured - torch.tensor(own)).abs().max() < 5e-3
    weights = shared_data / "weights" / "resnet20_cifar10.safetensors"
    model = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32), weights=weights)
    batches = iter(data.test)
    with torch.no_grad():
        right = 0
        for images, labels in (next(batches), next(batches)):
            right += int((model.eval()(images).argmax(1) == labels).sum())
    assert abs(right - 455) <= 1
