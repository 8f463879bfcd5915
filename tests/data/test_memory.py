from functools import partial

import pytest
import torch
from torch.nn import functional as F

from prunus.core.errors import DataError
from prunus.data import load_data
from prunus.data.augment import cut_out, flip_images, shift_images
from prunus.data.memory import MemoryImages, Scaling


@pytest.mark.parametrize("reach", [(2, 2), (1, 3), (0, 0)])
def test_shifts_equal_slicing_one_image_at_a_time(reach):
    torch.manual_seed(0)
    x = torch.rand(40, 2, 5, 7) + 1
    torch.manual_seed(1)
    moved = shift_images(x, reach)
    torch.manual_seed(1)
    top = torch.randint(0, 2 * reach[0] + 1, (40,))
    left = torch.randint(0, 2 * reach[1] + 1, (40,))
    for i in range(40):
        framed = F.pad(x[i], (reach[1], reach[1], reach[0], reach[0]))
        expected = framed[:, top[i] : top[i] + 5, left[i] : left[i] + 7]
        assert torch.equal(moved[i], expected)
    assert len(set(top.tolist())) == 2 * reach[0] + 1
    assert len(set(left.tolist())) == 2 * reach[1] + 1
    assert moved.is_contiguous()


def test_about_half_are_mirrored_and_the_others_left():
    x = torch.rand(400, 3, 4, 5)
    torch.manual_seed(0)
    flipped = flip_images(x)
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(flipped, x, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(flipped, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 160 < sum(mirrored) < 240


def test_cut_out_fills_a_square_around_any_pixel():
    x, fill = torch.zeros(2000, 3, 6, 7), torch.tensor([1.0, 2.0, 3.0])
    torch.manual_seed(0)
    y = cut_out(x, (4, 2), fill)
    torch.manual_seed(0)
    rows, columns = torch.randint(0, 6, (2000,)), torch.randint(0, 7, (2000,))
    for i in range(2000):
        expected = torch.zeros(3, 6, 7)
        top, left = int(rows[i]) - 2, int(columns[i]) - 1
        expected[:, max(top, 0) : top + 4, max(left, 0) : left + 2] = fill[:, None, None]
        assert torch.equal(y[i], expected)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 42


def test_grey_is_normalised_and_repeated_by_the_definition():
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4)
    data = MemoryImages(
        images, torch.tensor([3, 1]), scaling=Scaling(most=16, mean=(0.5,), std=(2.0,)),
        input_shape=(3, 4, 4),
    )  # fmt: skip
    x, y = data.__getitems__([1, 0])
    assert y.tolist() == [1, 3]
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], (images[[1, 0], 0] / 16 - 0.5) / 2.0)
    assert torch.equal(data[1][0], x[0])


COLOUR = Scaling(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 1.5))


def test_colour_is_normalised_by_channel():
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    data = MemoryImages(images, torch.arange(5), scaling=COLOUR, input_shape=(3, 4, 6))
    x, y = data.__getitems__([4, 2])
    assert y.tolist() == [4, 2]
    for c in range(3):
        expected = (images[[4, 2], c].double() / 255 - COLOUR.mean[c]) / COLOUR.std[c]
        torch.testing.assert_close(x[:, c].double(), expected, atol=1e-6, rtol=1e-5)


def test_colour_asked_for_as_grey_is_its_luma():
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    data = MemoryImages(images, torch.arange(5), scaling=COLOUR, input_shape=(1, 4, 6))
    r, g, b = (images[:, c].double() / 255 for c in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    expected = (luma - (0.0299 + 0.1174 + 0.0342)) / 1.0
    x, _ = data.__getitems__([0, 1, 2, 3, 4])
    torch.testing.assert_close(x[:, 0].double(), expected, atol=1e-6, rtol=1e-5)


def test_colour_cannot_become_other_channels():
    with pytest.raises(DataError, match="have 3 channels, 4 were requested: set 3 or 1"):
        MemoryImages(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1), scaling=COLOUR,
            input_shape=(4, 4, 4),
        )  # fmt: skip


def test_the_background_moves_in():
    images = torch.full((8, 1, 4, 4), 255, dtype=torch.uint8)
    data = MemoryImages(
        images, torch.zeros(8).long(), scaling=Scaling(mean=(0.25,), std=(0.5,)),
        input_shape=(1, 4, 4), augment=partial(shift_images, reach=2),
    )  # fmt: skip
    torch.manual_seed(0)
    x, _ = data.__getitems__(list(range(8)))
    assert set(x.unique().tolist()) == {-0.5, 1.5}


def test_digits_are_the_bundled_ones():
    data = load_data("digits")
    sizes = [len(getattr(data, part).dataset) for part in ("train", "validation", "test")]
    assert sizes == [1079, 359, 359]
    assert sum(sizes) == 1797
    assert data.class_names == tuple("0123456789")
    small = load_data("digits", input_shape=(1, 8, 8))
    x = torch.cat([x for loader in (small.calibration, small.validation) for x, _ in loader])
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
