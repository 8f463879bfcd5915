from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.core.errors import DataError
from prunus.data import file_splits, load_data
from prunus.data.files.decode import read_image
from prunus.data.registry import DataSettings
from prunus.data.sets.folder import load_folder

SHAPE = (3, 8, 8)


def fill(root: Path, **counts: int) -> Path:
    random = np.random.default_rng(len(str(counts)))
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (10, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def load(root: Path, **more):
    return load_data(f"folder:{root}", input_shape=SHAPE, **more)


def paths(loader) -> set[Path]:
    return set(loader.dataset.files.paths)


def test_one_folder_is_split_70_15_15(tmp_path):
    data = load(fill(tmp_path, plum=40, cherry=60))
    assert data.class_names == ("cherry", "plum")
    sizes = [len(getattr(data, part).dataset) for part in ("train", "validation", "test")]
    assert sizes == [70, 15, 15]
    every = [paths(getattr(data, part)) for part in ("train", "validation", "test")]
    assert len(set.union(*every)) == 100
    for part in ("train", "validation", "test"):
        files = getattr(data, part).dataset.files
        for path, label in zip(files.paths, files.labels.tolist(), strict=True):
            assert data.class_names[label] == path.parent.name


def test_the_default_shape_is_imagenets(tmp_path):
    data = load_data(f"folder:{fill(tmp_path, a=3, b=3)}")
    assert data.input_shape == (3, 224, 224)
    assert next(iter(data.test))[0].shape == (2, 3, 224, 224)


def test_an_image_is_resized_cropped_and_normalised(tmp_path):
    fill(tmp_path, a=3, b=3)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (20, 8), (255, 0, 51)).save(path)
    x, _ = load(tmp_path).test.dataset[0]
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(x, expected[:, None, None].expand(3, 8, 8))
    grey, _ = load_data(f"folder:{tmp_path}", input_shape=(1, 6, 4)).test.dataset[0]
    assert grey.shape == (1, 6, 4)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_test_folder_of_its_own(tmp_path, test_name):
    fill(tmp_path / "train", a=20, b=20)
    fill(tmp_path / test_name, a=1, b=2)
    data = load(tmp_path)
    assert {p.relative_to(tmp_path).parts[0] for p in paths(data.test)} == {test_name}
    assert len(data.test.dataset) == 3
    assert len(data.validation.dataset) == 6
    assert paths(data.train) | paths(data.validation) == set((tmp_path / "train").rglob("*.png"))
    assert paths(load(tmp_path, seed=1).validation) != paths(data.validation)


def test_three_folders_are_what_their_names_say(tmp_path):
    for part in ("train", "val", "test"):
        fill(tmp_path / part, a=1, b=2)
    data = load(tmp_path)
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert paths(getattr(data, part)) == set((tmp_path / name).rglob("*.png"))


def test_splits_must_have_the_same_classes(tmp_path):
    fill(tmp_path / "train", a=3, b=3)
    fill(tmp_path / "test", a=3, c=3)
    with pytest.raises(DataError, match=r"test has different classes .* 'b' is missing there"):
        load(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder .*absent"):
        load(tmp_path / "absent")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no images in subfolders"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="holds no images in subfolders"):
        load(tmp_path)


def test_a_single_class(tmp_path):
    with pytest.raises(DataError, match="holds one class, 'a'"):
        load(fill(tmp_path, a=9))


@pytest.mark.parametrize("count", [0, 2])
def test_a_class_with_too_few_images(tmp_path, count):
    with pytest.raises(DataError, match=rf"class 'few' of .* has {count} images, .* least 3 of"):
        load(fill(tmp_path, many=9, few=count))


def test_a_class_with_too_few_training_images(tmp_path):
    fill(tmp_path / "train", a=9, b=1)
    fill(tmp_path / "test", a=1, b=1)
    with pytest.raises(DataError, match=r"class 'b' of .* has 1 images, .* least 2 of"):
        load(tmp_path)


@pytest.mark.parametrize("channels", [2, 4])
def test_refuses_odd_channels(tmp_path, channels):
    with pytest.raises(DataError, match=f"1 or 3 channels, {channels} were requested"):
        load_data(f"folder:{fill(tmp_path, a=3, b=3)}", input_shape=(channels, 8, 8))


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_an_unreadable_image_is_found_at_once(tmp_path, content):
    path = fill(tmp_path, a=3, b=3) / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(DataError, match=r"^image .*b/1\.png cannot be read \([^\n]*\): replace it"):
        load(tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_image_is_named_when_it_surfaces(tmp_path, num_workers):
    fill(tmp_path, a=4, b=4)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".jpg"))
        whole = path.with_suffix(".jpg").read_bytes()
        path.with_suffix(".jpg").write_bytes(whole[: len(whole) // 2])  # the header is good
    settings = DataSettings(argument=str(tmp_path), input_shape=SHAPE, batch_size=2)
    data = load_folder(settings, num_workers=num_workers)
    with pytest.raises(
        DataError, match=r"^image [^\n]*\.jpg cannot be read \(image file is trunc[^\n]*\)[^\n]*$"
    ):
        next(iter(data.train))


def test_a_worker_gives_the_same_images(tmp_path):
    fill(tmp_path, a=6, b=6)
    settings = DataSettings(argument=str(tmp_path), input_shape=SHAPE, batch_size=4)
    alone, helped = load_folder(settings), load_folder(settings, num_workers=1)
    for (x, y), (u, v) in zip(alone.train, helped.train, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_large_folders_get_workers_and_no_check_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(file_splits, "_FEW", 5)
    monkeypatch.setattr(file_splits, "_VERIFIED", 5)
    monkeypatch.setattr(file_splits, "usable_cores", lambda: 1)
    (fill(tmp_path, a=3, b=3) / "b" / "1.png").write_bytes(b"")
    assert load(tmp_path).train.num_workers == 1


def test_odd_kinds_of_images(tmp_path):
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = bytes([0, 128])
    palette.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", 3).mode == "RGB"
    Image.new("LA", (4, 4)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png", 1).mode == "L"
