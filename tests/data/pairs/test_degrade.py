import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.core.errors import ConfigError
from prunus.data.pairs.bicubic import resize_bicubic
from prunus.data.pairs.degrade import Downsampling, GaussianNoise, JpegCompression, degrade_crop


def picture(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth image with some texture, as bytes (C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(channels, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse[None], (height, width), mode="bilinear")[0]
    fine = torch.rand(channels, height, width, generator=generator)
    return (230 * smooth + 25 * fine).to(torch.uint8)


def psnr(x: torch.Tensor, image: torch.Tensor) -> float:
    return -10 * math.log10((x.double() - image.double() / 255).square().mean())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downsampling_gives_the_bytes_of_a_smaller_image(scale):
    image = picture(3, 24, 36)
    x = Downsampling(scale)(image)
    assert x.dtype == torch.float32
    assert torch.equal((x * 255).round().to(torch.uint8), resize_bicubic(image, 1 / scale))
    assert x.shape == (3, 24 // scale, 36 // scale)


def test_downsampling_wants_whole_pixels():
    with pytest.raises(
        ConfigError, match=r"24×35 pixels is not a whole .* 1/3: crop it to .* of 3"
    ):
        Downsampling(3)(picture(1, 24, 35))


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_noise_has_its_sigma_and_is_white(sigma):
    image = torch.full((1, 400, 400), 128, dtype=torch.uint8)
    n = (GaussianNoise(sigma)(image, torch.Generator().manual_seed(1)) * 255 - 128).double()[0]
    assert n.std().item() == pytest.approx(sigma, rel=0.006)  # 3.4 standard errors
    assert abs(n.mean().item()) < 4 * sigma / 400
    neighbours = (n[:, 1:] * n[:, :-1]).mean().item() / sigma**2
    assert abs(neighbours) < 4 / 400


def test_noise_is_neither_clipped_nor_rounded():
    black = torch.zeros(3, 50, 50, dtype=torch.uint8)
    x = GaussianNoise(25)(black, torch.Generator().manual_seed(0))
    assert (x < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert len(x.unique()) > 7_000


def test_noise_is_repeated_by_its_generator_and_otherwise_the_global_one():
    image, noise = picture(1, 20, 20), GaussianNoise(25)
    first, second, third = (noise(image, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    torch.manual_seed(3)
    assert torch.equal(noise(image), first)
    assert not torch.equal(noise(image), first)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_worse_the_lower_its_quality(channels):
    image = picture(channels, 64, 80)
    ratios = [psnr(JpegCompression(q)(image), image) for q in (1, 5, 10, 20, 40, 70, 100)]
    assert all(low < high for low, high in itertools.pairwise(ratios))
    assert ratios[-1] - ratios[0] > 10


def test_jpeg_is_what_a_file_gives(tmp_path):
    image = picture(3, 33, 41)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg", quality=10)
    again = np.array(Image.open(tmp_path / "a.jpg"))
    expected = torch.from_numpy(again).permute(2, 0, 1).float() / 255
    assert torch.equal(JpegCompression(10)(image), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "degradation",
    [Downsampling(2), Downsampling(3), Downsampling(4), JpegCompression(10), GaussianNoise(0)],
)
def test_a_crop_is_that_place_of_the_whole(channels, degradation):
    s = degradation.scale
    image = picture(channels, 84, 120, seed=5)
    whole = degradation(image)
    random = np.random.default_rng(0)
    places = [(0, 0), (60 // s * s, 84 // s * s)]
    places += [tuple(s * random.integers(0, (60 // s, 84 // s))) for _ in range(12)]
    for top, left in places:
        crop = degrade_crop(image, degradation, int(top), int(left), (24, 36))
        y, x = top // s, left // s
        assert torch.equal(crop, whole[:, y : y + 24 // s, x : x + 36 // s])


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (Downsampling, 1, "scale of super-resolution is 1, expected 2 or more"),
        (GaussianNoise, -1, "sigma is -1, expected 0 to 255"),
        (GaussianNoise, 256, "sigma is 256, expected 0 to 255"),
        (GaussianNoise, math.nan, "sigma is nan, expected 0 to 255"),
        (JpegCompression, 0, "quality is 0, expected 1 to 100"),
        (JpegCompression, 101, "quality is 101, expected 1 to 100"),
    ],
)
def test_amounts_out_of_range_are_refused(make, value, message):
    with pytest.raises(ConfigError, match=message):
        make(value)
