import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.evaluation import count_macs
from prunus.models import build_model
from prunus.models.families.lapsrn import LapSRN, PyramidLevel


def on_meta(name, channels=1):
    with torch.device("meta"):
        return build_model(name, input_shape=(channels, 24, 24))


@pytest.mark.parametrize(("name", "count"), [("lapsrn_x2", 435_344), ("lapsrn_x4", 870_112)])
def test_exact_parameter_counts(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


@pytest.mark.parametrize(("name", "levels"), [("lapsrn_x2", 1), ("lapsrn_x4", 2)])
def test_multiplications_by_hand(name, levels):
    # One MAC a weight and position [Kung-Hou, Table 6]; a transposed convolution's positions are
    # the pixels that it reads.
    read = 10 * 9 * 64 * 64 + 16 * 64 * 64 + 16  # by a level, per pixel of its input
    made = 9 * 64  # per pixel of its output
    macs = 9 * 64 + sum(4**i * (read + 4 * made) for i in range(levels))
    image = torch.empty(1, 1, 24, 16, device="meta")
    assert count_macs(on_meta(name), image) == 24 * 16 * macs


def test_a_new_level_enlarges_bilinearly_and_adds_its_residual():
    torch.manual_seed(0)
    model, x = LapSRN(scale=2, in_channels=3, width=8, depth=1).eval(), torch.randn(2, 3, 6, 5)
    level = model.levels[0]
    inner = (..., slice(1, -1), slice(1, -1))  # the border reads padding
    enlarged = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(level.up(x)[inner], enlarged[inner])
    f, image = level(torch.randn(2, 8, 6, 5), x)
    torch.testing.assert_close(image, level.up(x) + level.residual(f))


def test_features_pass_convolutions_then_the_transposed_one():
    torch.manual_seed(0)
    level, f = PyramidLevel(width=3, depth=2, in_channels=1), torch.randn(1, 3, 4, 4)
    nn.init.normal_(level.features[4].weight)

    def leaky(y):
        return torch.where(y < 0, 0.2 * y, y)

    y = f
    for i in (0, 2):
        y = leaky(F.conv2d(y, level.features[i].weight, padding=1))
    y = leaky(F.conv_transpose2d(y, level.features[4].weight, stride=2, padding=1))
    torch.testing.assert_close(level(f, torch.zeros(1, 1, 4, 4))[0], y)


def test_training_gives_every_level_finest_first():
    torch.manual_seed(0)
    model = LapSRN(scale=4, width=4, depth=1)
    x = torch.randn(2, 1, 5, 6)
    fine, coarse = model.train()(x)
    assert fine.shape == (2, 1, 20, 24)
    assert coarse.shape == (2, 1, 10, 12)
    torch.testing.assert_close(model.eval()(x), fine)
    (alone,) = LapSRN(scale=2, width=4, depth=1).train()(x)
    assert alone.shape == (2, 1, 10, 12)
