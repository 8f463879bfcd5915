"""Flowers-102 and ImageNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import loadmat, savemat

from prunus.core.errors import DataError
from prunus.data import find_data, load_data
from prunus.data.files.decode import read_image
from tests.data.layouts import WORDNET, save_jpeg, write_flowers, write_imagenet

SHAPE = (3, 14, 14)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def flowers(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flowers")
    write_flowers(root)
    return root


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    write_imagenet(tmp_path)
    return tmp_path


def load(name: str, root: Path, **more):
    return load_data(name, data_root=root, input_shape=SHAPE, **more)


def test_flowers_are_split_as_published(flowers):
    data = load("flowers102", flowers, seed=3)
    ids = loadmat(flowers / "flowers-102" / "setid.mat")
    labels = loadmat(flowers / "flowers-102" / "imagelabels.mat")["labels"][0]
    for part, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid")):
        files = getattr(data, part).dataset.files
        assert [int(path.stem[-5:]) for path in files.paths] == ids[name][0].tolist()
        assert [int(labels[i - 1]) - 1 for i in ids[name][0]] == files.labels.tolist()
    assert data.class_names[0] == "pink primrose"
    assert data.class_names[101] == "blackberry lily"


def test_the_centre_of_the_resized_photograph_is_shown(imagenet):
    data = load("imagenet", imagenet)
    path = data.test.dataset.files.paths[0]
    save_jpeg(path, seed=9, size=(40, 100))
    whole = read_image(path, 3).resize((40, 16), Image.Resampling.BILINEAR)  # 16 = 14·256/224
    shown = np.asarray(whole.crop((13, 1, 27, 15))) / 255
    expected = ((shown - MEAN) / STD).transpose(2, 0, 1)
    x, _ = data.test.dataset[0]
    torch.testing.assert_close(x.double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["flowers102", "imagenet"])
def test_crops_of_eight_percent_and_up(flowers, imagenet, name):
    root = flowers if name == "flowers102" else imagenet
    crop = load(name, root, augment=True).train.dataset.transform.transforms[0]
    assert tuple(crop.scale) == (0.08, 1.0)


@pytest.fixture
def own_flowers(flowers, tmp_path) -> Path:
    """Flowers whose .mat files a test may change; the images are those of the others."""
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    (folder / "jpg").symlink_to(flowers / "flowers-102" / "jpg")
    for name in ("imagelabels.mat", "setid.mat"):
        (folder / name).write_bytes((flowers / "flowers-102" / name).read_bytes())
    return folder


def test_flowers_with_other_labels_are_refused(own_flowers):
    savemat(own_flowers / "imagelabels.mat", {"labels": np.arange(306).reshape(1, -1) % 102})
    with pytest.raises(DataError, match=r"imagelabels\.mat holds labels other than 1 to 102"):
        load("flowers102", own_flowers.parent)


@pytest.mark.parametrize("number", [0, 307])
def test_flowers_that_are_none_are_refused(own_flowers, number):
    ids = {name: np.arange(1, 103).reshape(1, -1) for name in ("trnid", "valid", "tstid")}
    ids["valid"][0, 5] = number
    savemat(own_flowers / "setid.mat", ids)
    with pytest.raises(DataError, match=r"setid\.mat names images that .* which has 306"):
        load("flowers102", own_flowers.parent)


def test_a_missing_flower_is_named(own_flowers):
    (own_flowers / "jpg").unlink()
    (own_flowers / "jpg").mkdir()
    with pytest.raises(DataError, match=r"flowers102 is incomplete in .*put jpg/image_\d{5}\.jpg"):
        load("flowers102", own_flowers.parent)


def test_missing_flowers_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(root, download):
        asked.append((root, download))
        write_flowers(root)

    download.classes = torchvision.datasets.Flowers102.classes
    monkeypatch.setattr(torchvision.datasets, "Flowers102", download)
    assert load("flowers102", tmp_path, download=True).num_classes == 102
    assert asked == [(tmp_path, True)]


def test_imagenet_tests_on_what_it_calls_validation(imagenet):
    data = load("imagenet", imagenet)
    assert data.class_names == ("n01440764 tench", "n02012849 crane", "n03126707 crane")
    paths = {p: set(getattr(data, p).dataset.files.paths) for p in ("train", "validation", "test")}
    folder = imagenet / "imagenet"
    assert paths["test"] == set((folder / "val").rglob("*.JPEG"))
    assert paths["train"] | paths["validation"] == set((folder / "train").rglob("*.JPEG"))
    assert (len(paths["train"]), len(paths["validation"])) == (33, 3)


def test_imagenet_may_lie_in_data_root_itself(imagenet):
    (imagenet / "imagenet" / "meta.bin").unlink()
    assert find_data("imagenet", imagenet / "imagenet") == imagenet / "imagenet"
    assert load("imagenet", imagenet / "imagenet").class_names == tuple(WORDNET)


@pytest.mark.parametrize("content", [b"", b"no archive", {"n01440764": ("tench",)}])
def test_a_broken_meta_file_is_named(imagenet, content):
    path = imagenet / "imagenet" / "meta.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save((content, []), path)
    with pytest.raises(DataError, match=r"meta\.bin cannot be read \([^\n]+\): remove it$"):
        load("imagenet", imagenet)


def test_imagenet_with_other_classes_to_test_is_refused(imagenet):
    folder = imagenet / "imagenet" / "val"
    (folder / "n03126707").rename(folder / "n09999999")
    with pytest.raises(DataError, match=r"val has different classes .* 'n03126707' is missing"):
        load("imagenet", imagenet)
