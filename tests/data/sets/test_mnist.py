import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from prunus.core.errors import DataError
from prunus.data import load_data
from prunus.data.files.idx import read_idx
from tests.data.layouts import idx

FILES = {
    "train-images-idx3-ubyte": (120, 28, 28),
    "train-labels-idx1-ubyte": (120,),
    "t10k-images-idx3-ubyte": (30, 28, 28),
    "t10k-labels-idx1-ubyte": (30,),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, shape in FILES.items():
        content = idx(np.arange(np.prod(shape)).reshape(shape) % (10 if len(shape) == 1 else 251))
        if name.startswith("t10k"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def test_packed_and_unpacked_files_are_read(raw, tmp_path):
    data = load_data("mnist", data_root=tmp_path)
    assert len(data.train.dataset) == 110
    assert len(data.validation.dataset) == 10
    assert len(data.test.dataset) == 30
    images, labels = next(iter(data.test))
    expected = (np.arange(784).reshape(28, 28) % 251 / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(images[0, 0].double(), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_read_idx_gives_the_array(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    (tmp_path / "x").write_bytes(idx(array))
    assert torch.equal(read_idx(tmp_path / "x", dimensions=3), torch.tensor(array))
    (tmp_path / "y").write_bytes(idx(array[:0]))
    assert read_idx(tmp_path / "y", dimensions=3).shape == (0, 4, 5)


GOOD = idx(np.zeros((120, 28, 28)))


PACKED = gzip.compress(GOOD, mtime=0)  # no clock in test ids: workers must collect the same


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", b"", "starts with , expected the magic number 00000803"),
        ("train-images-idx3-ubyte", b"\x89PNG" + GOOD, "starts with 89504e47, expected"),
        ("train-images-idx3-ubyte", idx(np.zeros(120)), "starts with 00000801, expected"),
        ("train-images-idx3-ubyte", GOOD[:9], "expected the magic number"),
        ("train-images-idx3-ubyte", GOOD[:-1], "holds 94079 bytes of data, its header .* 94080"),
        ("train-images-idx3-ubyte", GOOD + b"\0", "holds 94081 bytes of data"),
        ("train-images-idx3-ubyte", idx(np.zeros((120, 5, 5))), "holds images of 5×5"),
        ("train-images-idx3-ubyte", idx(np.zeros((9, 28, 28))), "holds 9 images but .* 120 labels"),
        ("train-labels-idx1-ubyte", idx(np.full(120, 10)), "holds no labels 0 to 9"),
        ("t10k-images-idx3-ubyte.gz", PACKED[:40], "cannot be read"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip at all", "cannot be read"),
        ("t10k-images-idx3-ubyte.gz", PACKED[:30] + b"x" * 99, "cannot be read"),
    ],
)
def test_a_broken_file_is_named(raw, tmp_path, name, content, sentence):
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.* {sentence}|{name} {sentence}"):
        load_data("mnist", data_root=tmp_path)


def test_too_few_images_are_refused(raw, tmp_path):
    (raw / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((15, 28, 28))))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(15) % 10))
    with pytest.raises(DataError, match="15 images of 10 classes"):
        load_data("mnist", data_root=tmp_path)


def test_missing_files_are_downloaded(raw, tmp_path, monkeypatch):
    kept = (raw / "train-labels-idx1-ubyte").read_bytes()
    (raw / "train-labels-idx1-ubyte").unlink()
    asked = []

    def download(root, download):
        asked.append((root, download))
        (raw / "train-labels-idx1-ubyte").write_bytes(kept)

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    assert load_data("mnist", data_root=tmp_path, download=True).num_classes == 10
    assert asked == [(tmp_path, True)]


@pytest.mark.parametrize("error", [RuntimeError("Error downloading x"), OSError("no network\n!")])
def test_a_failed_download_says_which_files_go_where(raw, tmp_path, monkeypatch, error):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()

    def download(root, download):
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    with pytest.raises(DataError) as caught:
        load_data("mnist", data_root=tmp_path, download=True)
    message = str(caught.value)
    assert (
        f"incomplete in {raw} and could not be downloaded ({str(error).splitlines()[0]})" in message
    )
    assert "put t10k-labels-idx1-ubyte (packed, .gz, or not) there" in message
    assert "train-images" not in message


def test_a_download_that_brings_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda root, download: None)
    with pytest.raises(
        DataError, match=r"the download did not contain them.*train-images-idx3-ubyte"
    ):
        load_data("mnist", data_root=tmp_path, download=True)


def test_the_real_mnist(shared_data):
    data = load_data("mnist", data_root=shared_data)
    counts = [len(getattr(data, part).dataset) for part in ("train", "validation", "test")]
    assert counts == [55_000, 5_000, 10_000]
    labels = data.validation.dataset.labels
    everything = torch.bincount(torch.cat([labels, data.train.dataset.labels]))
    assert (torch.bincount(labels) - everything / 12).abs().max() < 1
    pixels = data.calibration.dataset.images.double() / 255
    assert abs(float(pixels.mean()) - 0.1307) < 5e-4
    assert abs(float(pixels.std()) - 0.3081) < 5e-4
    assert next(iter(data.test))[1][:5].tolist() == [7, 2, 1, 0, 4]
