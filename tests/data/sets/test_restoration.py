from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.core.errors import ConfigError, DataError
from prunus.data import DATASETS, load_data
from prunus.data.pairs import pairs as pairs_module
from prunus.data.pairs.bicubic import resize_bicubic, rgb_to_luma
from prunus.data.pairs.degrade import JpegCompression
from prunus.data.pairs.photographs import IMAGE_SETS, find_set
from prunus.data.sets import restoration as restoration_module

PARTS = ("train", "validation", "test")
FIXED = ("calibration", "validation", "test")


def fill(root: Path, count: int, height: int = 40, width: int = 50) -> Path:
    """Write images whose colours encode the pixel's position: (2·row, 2·column, 10·image)."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(located(i, height + i % 3, width + i % 2)).save(root / f"{i:02}.png")
    return root


def located(i: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * rows, 2 * columns, 0 * rows + 10 * i], 2).astype(np.uint8)


def of(loader) -> set[str]:
    """The names of the files that a loader's images come from."""
    dataset = loader.dataset
    return {dataset.images.paths[i].name for i in dataset.index}


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    return (x * 255).round().to(torch.uint8)


def test_one_folder_is_split_70_15_15(tmp_path):
    fill(tmp_path, 20)
    data, other = (load_data(f"sr:2:{tmp_path}", seed=seed) for seed in (0, 2))
    assert [len(of(getattr(data, part))) for part in PARTS] == [14, 3, 3]
    assert len(set.union(*(of(getattr(data, part)) for part in PARTS))) == 20
    assert of(data.test) == of(other.test)
    assert of(data.validation) != of(other.validation)
    assert of(data.calibration) == of(data.train)
    again = load_data(f"sr:2:{tmp_path}", seed=0)
    assert [of(getattr(again, part)) for part in PARTS] == [
        of(getattr(data, part)) for part in PARTS
    ]


def test_a_test_folder_of_its_own(tmp_path):
    fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 2)
    data = load_data(f"denoise:25:{tmp_path / 'a'},{tmp_path / 'b'}")
    assert [len(of(getattr(data, part))) for part in PARTS] == [17, 3, 2]
    assert {path.parent.name for path in data.test.dataset.images.paths} == {"b"}
    assert {path.parent.name for path in data.train.dataset.images.paths} == {"a"}


@pytest.mark.parametrize(
    ("name", "shape", "scale", "given"),
    [
        ("sr:2", (3, 48, 48), 2, None),
        ("sr:3", (3, 32, 32), 3, None),
        ("sr:4", (3, 24, 24), 4, None),
        ("sr:4", (1, 6, 5), 4, (1, 6, 5)),
        ("denoise:25", (1, 48, 48), 1, None),
        ("denoise:12.5", (3, 9, 7), 1, (3, 9, 7)),
        ("deblock:10", (1, 48, 48), 1, None),
        ("deblock:10", (3, 9, 20), 1, (3, 9, 20)),
    ],
)
def test_batches_are_what_they_should_be(tmp_path, name, shape, scale, given):
    fill(tmp_path, 8, 100, 110)
    data = load_data(f"{name}:{tmp_path}", input_shape=given, batch_size=4, augment=True)
    assert (data.task, data.scale, data.num_classes, data.class_names) == (
        "restoration",
        scale,
        0,
        (),
    )
    assert data.input_shape == shape
    C, h, w = shape
    crop = (max(16, 2 * h), max(16, 2 * w))
    for part, (H, W) in {"train": (h, w), "calibration": (h, w), "validation": crop}.items():
        loader = getattr(data, part)
        batch = min(4, len(loader.dataset))
        for x, y in loader:
            assert x.shape == (batch, C, H, W)
            assert y.shape == (batch, C, scale * H, scale * W)
            assert x.dtype == y.dtype == torch.float32
            assert x.is_contiguous()
            assert 0 <= y.min() <= y.max() <= 1
    assert len(data.train.dataset) == len(data.calibration.dataset) == 16 * 6
    for (x, y), image in zip(data.test, sorted(of(data.test)), strict=True):
        height, width = 100 + int(image[:2]) % 3, 110 + int(image[:2]) % 2
        assert x.shape == (1, C, height // scale, width // scale)
        assert y.shape == (1, C, height // scale * scale, width // scale * scale)


def test_true_images_are_the_files_and_inputs_are_their_degraded_selves(tmp_path):
    data = load_data(f"sr:3:{fill(tmp_path, 6)}")
    for i, (x, y) in zip(data.test.dataset.index, data.test, strict=True):
        file = np.array(Image.open(data.test.dataset.images.paths[i]))
        H, W = (length // 3 * 3 for length in file.shape[:2])
        true = torch.from_numpy(file[:H, :W]).permute(2, 0, 1)
        assert torch.equal(to_bytes(y[0]), true)
        assert torch.equal(to_bytes(x[0]), resize_bicubic(true, 1 / 3))


@pytest.mark.parametrize(("name", "scale"), [("sr:2", 2), ("sr:4", 4), ("deblock:5", 1)])
@pytest.mark.parametrize("part", ["train", "calibration", "validation"])
def test_a_patch_is_a_place_of_its_whole_image(tmp_path, name, scale, part):
    data = load_data(f"{name}:{fill(tmp_path, 6, 97, 98)}", input_shape=(3, 5, 6))
    dataset = getattr(data, part).dataset
    places = set()
    for x, y in dataset:
        top, left, i = (to_bytes(y)[:, 0, 0] // torch.tensor([2, 2, 10], dtype=torch.uint8)).int()
        true = torch.from_numpy(located(int(i), 97 + int(i) % 3, 98 + int(i) % 2)).permute(2, 0, 1)
        H, W = (length // scale * scale for length in true.shape[1:])
        true = true[:, :H, :W]
        assert torch.equal(to_bytes(y), true[:, top : top + y.shape[1], left : left + y.shape[2]])
        whole = JpegCompression(5)(true) if scale == 1 else resize_bicubic(true, 1 / scale) / 255
        above, beside = top // scale, left // scale
        there = whole[:, above : above + x.shape[1], beside : beside + x.shape[2]]
        torch.testing.assert_close(x, there, rtol=0, atol=1e-7)
        places.add((int(top), int(left), int(i)))
    assert len(places) > 0.9 * len(dataset)


def test_augmented_patches_take_all_eight_positions_with_their_inputs(tmp_path):
    data = load_data(f"sr:2:{fill(tmp_path, 6)}", input_shape=(3, 8, 8), augment=True)
    positions = set()
    for x, y in data.train.dataset:
        red, green = to_bytes(y)[:2].int()
        down, right = (
            (c[1, 0] - c[0, 0] for c in (red, green)),
            (c[0, 1] - c[0, 0] for c in (red, green)),
        )
        positions.add((*map(int, down), *map(int, right)))
        small = resize_bicubic(to_bytes(y), 1 / 2)
        assert (small.int() - to_bytes(x).int())[:, 2:-2, 2:-2].abs().max() <= 1
    assert len(positions) == 8
    plain = load_data(f"sr:2:{tmp_path}", input_shape=(3, 8, 8))
    for _, y in plain.train.dataset:
        assert (to_bytes(y)[0].int().diff(dim=0) == 2).all()


def test_a_rectangle_is_never_turned_on_its_side(tmp_path):
    data = load_data(f"sr:2:{fill(tmp_path, 6)}", input_shape=(3, 6, 8), augment=True)
    corners = set()
    for x, y in data.train.dataset:
        assert (x.shape, y.shape) == ((3, 6, 8), (3, 12, 16))
        corners.add(tuple((y[:2, 0, 0] < y[:2, -1, -1]).tolist()))
    assert len(corners) == 4


@pytest.mark.parametrize("name", ["sr:2", "denoise:25", "deblock:10"])
def test_fixed_parts_are_the_same_for_ever_and_training_is_not(tmp_path, name):
    fill(tmp_path / "here", 8)
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "here").iterdir():
        (tmp_path / "there" / path.name).write_bytes(path.read_bytes())
    first, moved = (
        load_data(f"{name}:{tmp_path / place}", input_shape=(1, 6, 6), batch_size=100)
        for place in ("here", "there")
    )
    for part in FIXED:
        state = torch.random.get_rng_state()
        seen = list(getattr(first, part))
        torch.testing.assert_close(list(getattr(moved, part)), seen, rtol=0, atol=0)
        assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(0)
    (x, y), (_, other) = next(iter(first.train)), next(iter(first.train))
    assert not torch.equal(y, other)
    torch.manual_seed(0)
    assert torch.equal(next(iter(first.train))[0], x)


def test_noise_differs_between_images_and_patches_and_epochs(tmp_path):
    for i in range(6):
        Image.new("L", (20, 20), 128).save(tmp_path / f"{i}.png")
    data = load_data(f"denoise:25:{tmp_path}", input_shape=(1, 8, 8))
    for part in FIXED:
        dataset = getattr(data, part).dataset
        assert len({x.numpy().tobytes() for x, _ in dataset}) == len(dataset)
    assert not torch.equal(data.train.dataset[0][0], data.train.dataset[0][0])
    noise = torch.cat([255 * (x - y).flatten() for x, y in data.calibration])
    assert noise.std().item() == pytest.approx(25, rel=0.06)


def test_small_images_are_continued_by_their_mirror_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    data = load_data(f"denoise:0:{tmp_path}", input_shape=(3, 13, 22))
    x, y = data.train.dataset[0]
    expected = np.pad(pixels[data.train.dataset.index[0]], ((0, 8), (0, 15), (0, 0)), "symmetric")
    assert np.array_equal(to_bytes(y).permute(1, 2, 0).numpy(), expected)
    assert torch.equal(x, y)


def test_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    for i in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)
    grey = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L")))[None]
    for name, channels, expected in [
        ("sr:2", 3, rgb[:, :8]),
        ("sr:2", 1, rgb_to_luma(rgb)[:, :8]),
        ("denoise:1", 3, rgb),
        ("denoise:1", 1, grey),
        ("deblock:9", 3, rgb),
        ("deblock:9", 1, rgb_to_luma(rgb)),
    ]:
        data = load_data(f"{name}:{tmp_path}", input_shape=(channels, 4, 4))
        assert torch.equal(to_bytes(data.test.dataset[0][1]), expected)


@pytest.mark.parametrize("name", ["sr:2", "denoise:1", "deblock:9"])
def test_grey_files_are_their_own_luma(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for i in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    for channels in (1, 3):
        data = load_data(f"{name}:{tmp_path}", input_shape=(channels, 4, 4))
        true = to_bytes(data.test.dataset[0][1])
        assert torch.equal(true, torch.from_numpy(pixels).expand(channels, 8, 8))


@pytest.mark.parametrize("kept", [0, 3])
def test_images_that_are_not_held_are_the_same(tmp_path, monkeypatch, kept):
    fill(tmp_path, 8)
    held = load_data(f"sr:2:{tmp_path}", input_shape=(3, 6, 6))
    assert held.train.num_workers == 0
    assert len(held.train.dataset.images.held) == 8
    monkeypatch.setattr(pairs_module, "_HELD", kept * 42 * 51 * 3)
    monkeypatch.setattr(restoration_module, "usable_cores", lambda: 1)
    read = load_data(f"sr:2:{tmp_path}", input_shape=(3, 6, 6))
    assert read.train.num_workers == 1
    assert len(read.train.dataset.images.held) == kept
    monkeypatch.undo()
    monkeypatch.setattr(pairs_module, "memory_limit", lambda: 8 * kept * 42 * 51 * 3)
    small = load_data(f"sr:2:{tmp_path}", input_shape=(3, 6, 6))
    assert len(small.train.dataset.images.held) == kept
    for part in FIXED:
        pairs = zip(getattr(held, part).dataset, getattr(read, part).dataset, strict=True)
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    assert torch.equal(next(iter(read.validation))[0], next(iter(held.validation))[0])


def touch(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Set5", "Set5"),
        ("Set5", "sr/Set5"),
        ("Set5", "benchmark/Set5/HR"),
        ("Set14", "Set14/GTmod12"),
        ("Set12", "denoise/Set12"),
        ("Kodak24", "kodak"),
        ("B100", "sr/BSD100"),
        ("T91", "sr/T91"),
        ("Urban100", "Urban100"),
        ("BSD68", "denoise/BSD68"),
        ("BSD400", "denoise/Train400"),
        ("Train400", "BSD400"),
        ("DIV2K", "DIV2K_train_HR"),
        ("DIV2K", "sr/DIV2K/DIV2K_train_HR"),
    ],
)
def test_sets_are_found_where_they_usually_lie(tmp_path, name, place):
    count = IMAGE_SETS["BSD400" if name == "Train400" else name].count
    folder = touch(tmp_path / place, count)
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    assert {path.parent for path in find_set(name, tmp_path)} == {folder}


def test_div2k_is_tested_on_its_validation_images(tmp_path):
    train = touch(tmp_path / "DIV2K" / "DIV2K_train_HR", 800)
    valid = touch(tmp_path / "DIV2K" / "DIV2K_valid_HR", 100)
    assert find_set("DIV2K", tmp_path)[0].parent == train
    assert find_set("DIV2K", tmp_path, test=True)[0].parent == valid


def test_the_images_of_a_folder_of_ones_own_may_lie_in_hr(tmp_path):
    fill(tmp_path / "own" / "HR", 3)
    fill(tmp_path / "own" / "LR", 3)
    assert {p.parent.name for p in find_set(str(tmp_path / "own"), tmp_path)} == {"HR"}


def test_a_missing_set_says_where_to_get_it_and_where_to_put_it(tmp_path):
    with pytest.raises(
        DataError,
        match=rf"Urban100 is not in {tmp_path}: get it from https://github.com/jbhuang0604/SelfExSR"
        rf".* put its 100 images into {tmp_path}/Urban100, or name another data_root",
    ):
        load_data("sr:4:Urban100,Set5", data_root=tmp_path)
    fill(tmp_path / "own", 3)
    with pytest.raises(DataError, match=r"DIV2K-valid is not .*DIV2K_valid_HR, or name another"):
        load_data(f"sr:4:{tmp_path / 'own'},DIV2K", data_root=tmp_path)


def test_a_set_that_is_not_whole_is_refused(tmp_path):
    fill(tmp_path / "Set5", 4)
    with pytest.raises(DataError, match=r"Set5 holds 4 images and Set5 has 5: put those of https"):
        load_data("sr:4:Set5", data_root=tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder Set6: give .* one of the sets T91, D"):
        load_data("sr:4:Set6", data_root=tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path} holds no images \(\.jpg, .*put some there"):
        load_data(f"sr:4:{tmp_path}", data_root=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "sr:4",
        "sr:T91",
        "sr:four:T91",
        "sr:2.5:T91",
        "sr:-2:T91",
        "sr:4:",
        "sr:4:,Set5",
        "sr:4:T91,",
        "sr:4:T91,Set5,Set14",
        "denoise:nan:T91",
        "denoise:inf:T91",
        "deblock:10.5:T91",
    ],
)
def test_a_name_that_cannot_be_read_is_shown_one_that_can(tmp_path, name):
    with pytest.raises(DataError, match=r"was given .*: write \w+:[A-Z]+:TRAIN\[,TEST\], .* as \w"):
        load_data(name, data_root=tmp_path)
    assert DATASETS[name.partition(":")[0]].find(tmp_path, name.partition(":")[2]) is None


@pytest.mark.parametrize("name", ["sr", "denoise", "deblock"])
def test_a_bare_name_says_what_is_missing(name):
    with pytest.raises(DataError, match=rf"{name} was given without its [A-Z]+:TRAIN\[,TEST\]"):
        load_data(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sr:1", "scale of super-resolution is 1"),
        ("denoise:300", "sigma is 300"),
        ("deblock:0", "quality is 0"),
    ],
)
def test_amounts_out_of_range_are_refused(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        load_data(f"{name}:{fill(tmp_path, 3)}")


def test_training_images_are_not_the_test(tmp_path):
    fill(tmp_path / "Set5", 5)
    with pytest.raises(DataError, match=r"tested on its own training images in .*: omit TEST"):
        load_data(f"sr:4:{tmp_path / 'Set5'},Set5", data_root=tmp_path)


@pytest.mark.parametrize(("count", "test", "least"), [(2, False, 3), (1, True, 2)])
def test_too_few_images(tmp_path, count, test, least):
    fill(tmp_path / "a", count)
    fill(tmp_path / "b", 1)
    name = f"sr:2:{tmp_path / 'a'}" + (f",{tmp_path / 'b'}" if test else "")
    with pytest.raises(DataError, match=rf"a holds {count} images, .* needs at least {least}: add"):
        load_data(name)
    fill(tmp_path / "a", least)
    assert len(load_data(name, input_shape=(3, 4, 4)).test) == 1


def test_refuses_odd_channels(tmp_path):
    with pytest.raises(DataError, match="sr has images of 1 or 3 channels, 4 were requested"):
        load_data(f"sr:2:{fill(tmp_path, 3)}", input_shape=(4, 8, 8))


def test_a_broken_image_is_found_at_once(tmp_path):
    (fill(tmp_path, 3) / "01.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^image .*01\.png cannot be read"):
        load_data(f"sr:2:{tmp_path}")


def test_an_image_that_vanishes_is_named(tmp_path):
    for path in fill(tmp_path, 3).iterdir():
        Image.new("RGB", (30, 3)).save(path)
    data = load_data(f"sr:4:{tmp_path}", input_shape=(3, 4, 4))
    with pytest.raises(DataError, match=r"\d\.png of 3×30 pixels is empty at 1/4: remove it"):
        next(iter(data.test))


def test_the_registry_finds_what_is_there(tmp_path):
    entry = DATASETS["sr"]
    assert entry.task == "restoration"
    assert entry.find(tmp_path, "") is None
    fill(tmp_path / "sr" / "Set5", 5)
    assert entry.find(tmp_path, "") == tmp_path
    own = fill(tmp_path / "own", 3)
    assert entry.find(tmp_path, f"4:{own},Set5") == own
    assert entry.find(tmp_path, f"4:{own},Set14") is None
    assert entry.sizes["DIV2K"] == 800
    assert "Set5, Set14, B100, Urban100: https://github.com/jbhuang0604/SelfExSR" in entry.get


@pytest.mark.parametrize("name", ["T91", "Set5", "Set14", "B100", "BSD400", "BSD68", "Set12"])
def test_the_real_sets_are_found(shared_data, name):
    assert len(find_set(name, shared_data)) == IMAGE_SETS[name].count


def test_real_images_load(shared_data):
    data = load_data("sr:4:T91,Set5", data_root=shared_data, input_shape=(1, 24, 24), batch_size=32)
    assert [len(of(getattr(data, part))) for part in PARTS] == [77, 14, 5]
    x, y = next(iter(data.train))
    assert (x.shape, y.shape) == ((32, 1, 24, 24), (32, 1, 96, 96))
    assert 16 / 255 - 1e-6 <= y.min() <= y.max() <= 235 / 255 + 1e-6
