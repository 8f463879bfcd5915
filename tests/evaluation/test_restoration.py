import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from prunus.core.errors import ConfigError, DataError, NonFiniteError
from prunus.data import load_data
from prunus.data.pairs.bicubic import resize_bicubic
from prunus.evaluation.restoration import Quality, psnr, restoration_quality, ssim


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images in [0, 1] that 8 bits can hold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double() / 255


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """The index of [SSIM] of two planes (H, W) in 0 … 255, window by window."""
    t = np.arange(-5, 6)
    w = np.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
            cov = (w * (a - ma) * (b - mb)).sum()
            luminance = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
            values.append(luminance * (2 * cov + c2) / (va + vb + c2))
    return float(np.mean(values))


def slow_psnr(x: np.ndarray, y: np.ndarray) -> float:
    """PSNR of two images in 0 … 255."""
    return 10 * math.log10(255**2 / np.mean((x - y) ** 2))


class Enlarge(nn.Module):
    """The field's baseline, without a parameter."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return resize_bicubic(x, self.scale) if self.scale > 1 else x


class Answer(nn.Module):
    """Answers each image with one given, times a weight."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer * self.weight


def test_ssim_is_its_definition():
    x, y = random(2, 3, 14, 17), random(2, 3, 14, 17, seed=1)
    y[1] = 0.7 * x[1] + 0.3 * y[1]
    expected = [
        np.mean([slow_ssim(255 * a.numpy(), 255 * b.numpy()) for a, b in zip(*pair, strict=True)])
        for pair in zip(x, y, strict=True)
    ]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 24, 27), (1, 1, 40, 30)])
def test_torchmetrics_agrees_inside_the_border(shape):
    from torchmetrics.functional import image as torchmetrics

    x = random(*shape)
    y = 0.7 * x + 0.3 * random(*shape, seed=1)
    _, similarity = torchmetrics.structural_similarity_index_measure(
        x, y, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = similarity[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert ssim(x, y).tolist() == pytest.approx(inside.tolist(), abs=1e-12)
    ratio = torchmetrics.peak_signal_noise_ratio(
        x, y, data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    assert psnr(x, y).tolist() == pytest.approx(ratio.tolist(), abs=1e-5)


def test_ssim_of_equal_images_is_one_and_of_opposite_ones_below_zero():
    x = random(1, 1, 20, 20)
    assert ssim(x, x).item() == pytest.approx(1, abs=1e-12)
    assert ssim(x, 1 - x).item() < 0


def test_ssim_needs_its_window():
    assert ssim(random(1, 1, 11, 11), random(1, 1, 11, 11, seed=1)).shape == (1,)
    with pytest.raises(
        DataError, match="at least 11×11 pixels inside the border, but 10×30 were given"
    ):
        ssim(random(1, 1, 10, 30), random(1, 1, 10, 30))


def test_psnr_is_its_definition():
    x, y = random(3, 2, 5, 7), random(3, 2, 5, 7, seed=1)
    expected = [slow_psnr(255 * a.numpy(), 255 * b.numpy()) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y).tolist() == pytest.approx(expected)
    assert psnr(x, x).tolist() == [math.inf] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_denoising_is_measured_on_all_pixels_and_channels(channels):
    answer, true = random(2, channels, 13, 16), random(2, channels, 13, 16, seed=1)
    found = restoration_quality(Answer(answer), [(true, true)], 1)
    a, b = 255 * answer.numpy(), 255 * true.numpy()
    ratios = [slow_psnr(a[i], b[i]) for i in range(2)]
    planes = [slow_ssim(a[i, c], b[i, c]) for i in range(2) for c in range(channels)]
    assert found.psnr == pytest.approx(np.mean(ratios))
    assert found.ssim == pytest.approx(np.mean(planes))


@pytest.mark.parametrize("scale", [2, 3])
def test_super_resolution_is_measured_on_luma_inside_the_border(scale):
    answer, true = random(1, 3, 20, 24), random(1, 3, 20, 24, seed=1)
    found = restoration_quality(Answer(answer), [(true[..., :4, :4], true)], scale)

    def luma(image: torch.Tensor) -> np.ndarray:
        R, G, B = image[0].numpy()
        Y = np.floor(16 + 65.481 * R + 128.553 * G + 24.966 * B + 0.5)
        return Y[scale:-scale, scale:-scale]

    assert found.psnr == pytest.approx(slow_psnr(luma(answer), luma(true)))
    assert found.ssim == pytest.approx(slow_ssim(luma(answer), luma(true)))


def test_one_channel_is_luma_already():
    answer, true = random(1, 1, 20, 24), random(1, 1, 20, 24, seed=1)
    found = restoration_quality(Answer(answer), [(true, true)], 4)
    a, b = (255 * image[0, 0, 4:-4, 4:-4].numpy() for image in (answer, true))
    assert found == pytest.approx((slow_psnr(a, b), slow_ssim(a, b)))


def test_the_border_does_not_count():
    true = random(1, 1, 24, 24)
    spoilt = true.clone()
    spoilt[..., :2, :] = 1 - spoilt[..., :2, :]
    spoilt[..., -2:] = 1 - spoilt[..., -2:]
    loader = [(true, true)]
    assert restoration_quality(Answer(spoilt), loader, 2).ssim == pytest.approx(1)
    assert restoration_quality(Answer(spoilt), loader, 1).ssim < 1


def test_answers_are_clipped_and_rounded():
    true = random(1, 1, 12, 12)
    perfect = Quality(100.0, pytest.approx(1))
    almost = true + 0.4 / 255 * (random(1, 1, 12, 12, seed=1) * 2 - 1)
    assert restoration_quality(Answer(almost), [(true, true)], 1) == perfect
    white = torch.ones_like(true)
    assert restoration_quality(Answer(white + 3), [(white, white)], 1) == perfect
    assert restoration_quality(Answer(-white), [(0 * white, 0 * white)], 1) == perfect


def test_the_mean_is_over_images_not_batches():
    answer, true = random(3, 1, 12, 12), random(3, 1, 12, 12, seed=1)
    together = restoration_quality(Enlarge(), [(answer, true)], 1)
    apart = restoration_quality(Enlarge(), [(answer[:2], true[:2]), (answer[2:], true[2:])], 1)
    assert together == pytest.approx(apart)
    assert together.psnr == pytest.approx(psnr(answer, true).mean().item())


def test_the_first_of_several_outputs_is_measured():
    class Pyramid(Enlarge):
        def forward(self, x):
            return x, x[..., ::2, ::2]

    x = random(1, 1, 12, 12)
    assert restoration_quality(Pyramid(), [(x, x)], 1).psnr == 100


def test_training_modes_are_left_as_they_were():
    model = nn.Sequential(nn.Conv2d(1, 1, 1).double(), nn.BatchNorm2d(1).double())
    model.train()
    model[1].eval()  # frozen
    statistics = model[1].running_mean.clone()
    loader = [(random(1, 1, 12, 12), random(1, 1, 12, 12))]
    restoration_quality(model, loader, 1)
    with pytest.raises(ConfigError):
        restoration_quality(model, [(loader[0][0], torch.zeros(1, 1, 5, 5))], 1)
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.equal(model[1].running_mean, statistics)
    model.eval()
    restoration_quality(model, loader, 1)
    assert not model.training


def test_a_model_in_training_is_measured_in_eval_mode():
    x = random(1, 1, 12, 12)
    model = nn.Sequential(nn.Dropout(0.9)).train()
    assert restoration_quality(model, [(x, x)], 1).psnr == 100


def test_the_batches_are_shown_to_progress():
    seen = []
    x = random(1, 1, 12, 12)
    restoration_quality(Enlarge(), [(x, x)] * 3, 1, lambda loader: seen.extend(loader) or loader)
    assert len(seen) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_an_error(value):
    x = random(1, 1, 12, 12)
    model = Answer(x)
    nn.init.constant_(model.weight, value)
    with pytest.raises(NonFiniteError, match="Answer produced NaN or infinite outputs"):
        restoration_quality(model, [(x, x)], 1)


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no image"):
        restoration_quality(Enlarge(), [], 1)


def test_answers_of_another_size_are_an_error():
    x, y = random(1, 3, 6, 6), random(1, 3, 24, 24)
    message = r"Enlarge maps \(1, 3, 6, 6\) to \(1, 3, 12, 12\), but .* \(1, 3, 24, 24\): choose"
    with pytest.raises(ConfigError, match=message):
        restoration_quality(Enlarge(2), [(x, y)], 4)
    with pytest.raises(ConfigError, match="scale of a restoration is 0, expected 1 or more"):
        restoration_quality(Enlarge(), [(x, x)], 0)


@pytest.mark.parametrize(
    ("name", "scale", "channels", "ratio", "similarity"),
    [
        ("Set5", 2, 1, 33.66, 0.9299),
        ("Set5", 3, 1, 30.39, 0.8682),
        ("Set5", 4, 1, 28.42, 0.8104),
        ("Set5", 3, 3, 30.39, 0.8682),
        ("Set14", 4, 1, 26.00, 0.7027),
    ],
)
def test_bicubic_has_the_published_quality(
    shared_data, tmp_path, name, scale, channels, ratio, similarity
):
    """The tables' bicubic rows, as in [VDSR]."""
    for i in range(2):
        Image.new("RGB", (96, 96)).save(tmp_path / f"{i}.png")
    data = load_data(
        f"sr:{scale}:{tmp_path},{name}", data_root=shared_data, input_shape=(channels, 8, 8)
    )
    found = restoration_quality(Enlarge(scale), data.test, scale)
    assert found.psnr == pytest.approx(ratio, abs=0.02)
    assert found.ssim == pytest.approx(similarity, abs=0.001)


def test_noise_alone_has_its_psnr(shared_data, tmp_path):
    """−10·log₁₀(σ²/255²) before clipping; the shares of black and white in Set12 are small."""
    for i in range(2):
        Image.new("L", (48, 48)).save(tmp_path / f"{i}.png")
    data = load_data(f"denoise:15:{tmp_path},Set12", data_root=shared_data)
    found = restoration_quality(Enlarge(), data.test, 1)
    assert found.psnr == pytest.approx(-20 * math.log10(15 / 255), abs=0.15)
