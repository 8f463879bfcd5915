import torch
from torch.nn import functional as F

from prunus.data import load_data
from prunus.data.memory import GreyImages, shift_images


def test_shifts_equal_slicing_one_image_at_a_time():
    torch.manual_seed(0)
    x = torch.rand(40, 2, 5, 7) + 1
    torch.manual_seed(1)
    moved = shift_images(x, 2)
    torch.manual_seed(1)
    top, left = torch.randint(0, 5, (2, 40, 1)).squeeze(-1)
    for i in range(40):
        framed = F.pad(x[i], (2, 2, 2, 2))
        expected = framed[:, top[i] : top[i] + 5, left[i] : left[i] + 7]
        assert torch.equal(moved[i], expected)
    assert len(set(top.tolist())) == len(set(left.tolist())) == 5


def test_normalised_and_repeated_by_the_definition():
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 4, 4)
    data = GreyImages(
        images, torch.tensor([3, 1]), scale=16, mean=0.5, std=2.0, input_shape=(3, 4, 4)
    )
    x, y = data.__getitems__([1, 0])
    assert y.tolist() == [1, 3]
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], (images[[1, 0]] / 16 - 0.5) / 2.0)


def test_the_background_moves_in():
    images = torch.full((8, 4, 4), 255, dtype=torch.uint8)
    data = GreyImages(
        images, torch.zeros(8).long(), scale=255, mean=0.25, std=0.5, input_shape=(1, 4, 4),
        max_shift=2,
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
