import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat

from prunus.core.errors import DataError
from prunus.data import load_data
from tests.data.layouts import pixels, write_svhn

Y = (np.arange(40) % 10 + 1).reshape(-1, 1).astype(np.uint8)


def test_the_last_axis_counts_the_images_and_ten_is_zero(tmp_path):
    write_svhn(tmp_path)
    data = load_data("svhn", data_root=tmp_path)
    sizes = [len(getattr(data, part).dataset) for part in ("train", "validation", "test")]
    assert sizes == [220, 20, 30]
    raw = pixels(32, 32, 3, 30, seed=1)
    for i in range(30):
        assert np.array_equal(data.test.dataset.images[i], raw[..., i].transpose(2, 0, 1))
    assert data.test.dataset.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    x = next(iter(data.test))[0]
    mean, std = np.array([0.4377, 0.4438, 0.4728]), np.array([0.198, 0.201, 0.197])
    expected = ((raw[..., 0] / 255 - mean) / std).transpose(2, 0, 1)
    torch.testing.assert_close(x[0].double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_augmented_images_are_cropped_and_not_mirrored(tmp_path):
    write_svhn(tmp_path)
    data = load_data("svhn", data_root=tmp_path, augment=True).train.dataset
    x = torch.zeros(300, 3, 32, 32)
    x[..., 10, 20] = 1
    torch.manual_seed(0)
    places = torch.nonzero(data.augment(x)[:, 0])
    assert set(places[:, 1].tolist()) == set(range(6, 15))
    assert set(places[:, 2].tolist()) == set(range(16, 25))


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"X": pixels(32, 32, 3, 40)}, "holds no variable 'y'"),
        ({"X": pixels(32, 32, 3, 39), "y": Y}, "40 labels for 39 images"),
        ({"X": pixels(32, 32, 3, 40), "y": Y - 1}, "expected equally many, from 1 to 10"),
        ({"X": pixels(40, 3, 32, 32), "y": Y}, r"X of uint8 \(40, 3, 32, 32\), expected uint8"),
        ({"X": pixels(32, 32, 3, 40) / 255, "y": Y}, "X of float64"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, held, sentence):
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", held)
    with pytest.raises(DataError, match=rf"test_32x32\.mat holds .*{sentence}|{sentence}"):
        load_data("svhn", data_root=tmp_path)


@pytest.mark.parametrize("keep", [0, 3000])
def test_a_broken_file_is_named(tmp_path, keep):
    write_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train_32x32\.mat cannot be read \([^\n]*\): download"):
        load_data("svhn", data_root=tmp_path)


def test_what_is_missing_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(root, split, download):
        asked.append((split, download))
        write_svhn(root)

    monkeypatch.setattr(torchvision.datasets, "SVHN", download)
    assert load_data("svhn", data_root=tmp_path, download=True).class_names == tuple("0123456789")
    assert asked == [("train", True), ("test", True)]


def test_the_missing_one_of_two_is_named(tmp_path, monkeypatch):
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda root, split, download: None)
    with pytest.raises(
        DataError, match=r"the download did not contain them\).*, put test_32x32\.mat th"
    ):
        load_data("svhn", data_root=tmp_path, download=True)
