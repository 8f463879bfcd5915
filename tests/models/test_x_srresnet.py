import pytest
import torch
from torch import nn

from prunus.evaluation import count_macs
from prunus.models import build_model
from prunus.models.families.x_srresnet import XSRResNet

#: 1280 × 720 at × 4: with it SRCNN and VDSR, too, have the FLOPs that [Kung-Hou, Table 4] prints.
HEIGHT, WIDTH = 180, 320
IMAGE = torch.empty(1, 3, HEIGHT, WIDTH, device="meta")


def on_meta(name):
    with torch.device("meta"):
        return build_model(name, input_shape=(3, 24, 24))


@pytest.mark.parametrize(
    ("name", "count"), [("x_srresnet_x4", 92_568), ("x_srresnet_full_x4", 1_296_003)]
)
def test_exact_parameter_counts(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


def test_the_printed_9_6_billion_are_the_convolutions_of_the_residual_blocks():
    # Two operations a MAC, as everywhere in [Kung-Hou, Table 4].
    model = on_meta("x_srresnet_x4")
    blocks = sum(p.numel() for p in model.body[:-1].parameters() if p.dim() == 4)
    assert blocks == 32 * 9 * 17 * 17
    assert 2 * HEIGHT * WIDTH * blocks == 9_588_326_400
    assert 2 * count_macs(model, IMAGE) == 16_779_571_200


def test_multiplications_of_the_full_width_by_hand():
    macs = 27 * 64 + 33 * 9 * 64 * 64 + (4 + 16) * 9 * 64 * 64 + 16 * 27 * 64
    assert count_macs(on_meta("x_srresnet_full_x4"), IMAGE) == HEIGHT * WIDTH * macs


def test_the_printed_savings_are_against_srresnet():
    # Section 7.1: "16x in model size and 14x in FLOPs".
    small, large = on_meta("x_srresnet_x4"), on_meta("srresnet_3x3_x4")
    sizes = [sum(p.numel() for p in model.parameters()) for model in (large, small)]
    assert round(sizes[0] / sizes[1]) == 16
    assert round(count_macs(large, IMAGE) / count_macs(small, IMAGE)) == 14


def test_upsampling_repeats_pixels():
    model = XSRResNet(scale=4, in_channels=1, width=1, blocks=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(model.body[-1].weight)
    x = torch.rand(1, 1, 3, 2)
    expected = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(model(x), expected)
    assert model(-x).eq(0).all()  # a ReLU behind each upsampling, none behind the head
