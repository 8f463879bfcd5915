import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.data.pairs.bicubic import bicubic_weights, resize_bicubic, rgb_to_luma

SCALES = [1 / 4, 1 / 3, 1 / 2, 0.3, 1 / 1.4, 0.9, 1, 1.3, 2, 3, 4]


def kernel(t: float) -> float:
    """Keys's cubic, a = -1/2."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    if t <= 2:
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return 0


def resize_line(line: list[float], scale: float) -> list[float]:
    """Resize one line by the definition: a sum over every pixel that the kernel can reach."""
    n = len(line)
    mirrored = [*line, *line[::-1]]  # …, x1, x0, x0, x1, …, with period 2n
    s = min(scale, 1)
    resized = []
    for i in range(math.ceil(n * scale)):
        u = (i + 0.5) / scale - 0.5
        reach = range(math.floor(u - 2 / s) - 1, math.ceil(u + 2 / s) + 2)
        weights = {j: kernel(s * (u - j)) for j in reach}
        total = sum(weights.values())
        resized.append(sum(w * mirrored[j % (2 * n)] for j, w in weights.items()) / total)
    return resized


def resize(image: np.ndarray, scale: float, keep=lambda x: x) -> np.ndarray:
    """Resize (H, W): columns of pixels first, then rows; `keep` is applied after each."""
    tall = keep(np.array([resize_line(line, scale) for line in image.T.tolist()]).T)
    return keep(np.array([resize_line(line, scale) for line in tall.tolist()]))


def to_bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(x + 0.5), 0, 255)


@pytest.mark.parametrize("scale", SCALES)
def test_floats_are_resized_by_the_definition(scale):
    image = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(resize(image.numpy(), scale))
    torch.testing.assert_close(resize_bicubic(image, scale), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_bytes_are_rounded_after_each_axis(scale):
    image = np.random.default_rng(1).integers(0, 256, (11, 9), dtype=np.uint8)
    expected = torch.from_numpy(resize(image, scale, to_bytes)).to(torch.uint8)
    assert torch.equal(resize_bicubic(torch.from_numpy(image), scale), expected)


def test_rounding_once_would_be_something_else():
    image = np.random.default_rng(2).integers(0, 256, (24, 24), dtype=np.uint8)
    once = to_bytes(resize(image, 1 / 2))
    assert (resize_bicubic(torch.from_numpy(image), 1 / 2).numpy() != once).any()


def test_the_weights_that_matlab_gives():
    near = [-0.0703125, 0.8671875, 0.2265625, -0.0234375]
    assert bicubic_weights(8, 2)[7, 2:6].tolist() == near  # at 3.25
    assert bicubic_weights(8, 2)[8, 2:6].tolist() == near[::-1]  # at 3.75
    halved = [-0.01171875, -0.03515625, 0.11328125, 0.43359375]
    assert bicubic_weights(16, 1 / 2)[4, 5:13].tolist() == halved + halved[::-1]


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4])
def test_pytorchs_antialiasing_agrees_away_from_the_border(scale):
    image = torch.rand(1, 2, 60, 48, dtype=torch.float64)
    other = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)
    mine = resize_bicubic(image, scale)
    torch.testing.assert_close(mine[..., 2:-2, 2:-2], other[..., 2:-2, 2:-2])


@pytest.mark.parametrize("scale", SCALES)
def test_a_constant_stays_and_sizes_are_rounded_up(scale):
    image = torch.full((2, 3, 10, 13), 201, dtype=torch.uint8)
    resized = resize_bicubic(image, scale)
    assert resized.shape == (2, 3, math.ceil(10 * scale), math.ceil(13 * scale))
    assert (resized == 201).all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_lines_shorter_than_the_kernel(length):
    line = torch.rand(1, length, dtype=torch.float64)
    for scale in (1 / 4, 4):
        expected = torch.tensor([resize_line(line[0].tolist(), scale)], dtype=torch.float64)
        assert torch.allclose(line @ bicubic_weights(length, scale).T, expected, atol=1e-12)


def test_many_sizes_do_not_change_each_other():
    image = torch.rand(30, 20, dtype=torch.float64)
    first = resize_bicubic(image, 1 / 2)
    for length in range(3, 100):
        resize_bicubic(torch.rand(length, 4), 1 / 2)
    assert torch.equal(resize_bicubic(image, 1 / 2), first)


def test_the_type_is_kept():
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64):
        assert resize_bicubic(torch.zeros(1, 4, 4, dtype=dtype), 2).dtype == dtype


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_a_scale_must_be_positive(scale):
    with pytest.raises(ConfigError, match=rf"scale of a resizing is {scale}, expected a positive"):
        resize_bicubic(torch.zeros(4, 4), scale)


@pytest.mark.parametrize(
    "image", [torch.zeros(4), torch.zeros(4, 4, dtype=torch.int64), torch.zeros(3, 0, 4)]
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(
        ConfigError, match=r"cannot be resized: give \(…, H, W\) as uint8 or floats"
    ):
        resize_bicubic(image, 2)


def test_luma_is_matlabs():
    """White, black, red, green and blue as MATLAB's rgb2ycbcr gives them."""
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    image = torch.tensor(colours, dtype=torch.uint8).T[:, None]  # (3, 1, 5)
    assert rgb_to_luma(image).tolist() == [[[235, 16, 81, 145, 41]]]
    floats = rgb_to_luma(image.double() / 255)[0, 0] * 255
    torch.testing.assert_close(
        floats, torch.tensor([235, 16, 81.481, 144.553, 40.966], dtype=torch.float64)
    )
    assert rgb_to_luma(torch.zeros(2, 3, 4, 5)).shape == (2, 1, 4, 5)


@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_set5_has_the_published_baseline(shared_data, scale, published):
    """PSNR on Y of bicubic down and up, in floats as in MATLAB's demonstration of SRCNN."""
    ratios = []
    for path in sorted((shared_data / "sr" / "Set5").glob("*.png")):
        rgb = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        H, W = (length // scale * scale for length in rgb.shape[1:])
        y = rgb_to_luma(rgb[:, :H, :W]).double() / 255
        again = resize_bicubic(resize_bicubic(y, 1 / scale), scale)
        error = (again.clamp(0, 1) * 255).round() / 255 - y
        ratios.append(-10 * math.log10(error[:, scale:-scale, scale:-scale].square().mean()))
    assert len(ratios) == 5
    assert sum(ratios) / 5 == pytest.approx(published, abs=0.01)
