import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.evaluation import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.srresnet import ResidualBlock, SRResNet, doublings, shuffle_up

#: The low-resolution image behind 1280 × 720 at × 4, which [Kung-Hou, Table 4] counts with.
HEIGHT, WIDTH = 180, 320


def on_meta(name, channels):
    with torch.device("meta"):
        return build_model(name, input_shape=(channels, 24, 24))


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("srresnet_x2", 1, 1_374_336),
        ("srresnet_x4", 1, 1_521_792),
        ("srresnet_3x3_x2", 3, 1_374_083),
        ("srresnet_3x3_x4", 3, 1_521_795),
        ("srresnet_binary_x2", 1, 1_376_769),
        ("srresnet_binary_x4", 1, 1_524_481),
    ],
)
def test_exact_parameter_counts(name, channels, count):
    assert sum(p.numel() for p in on_meta(name, channels).parameters()) == count


@pytest.mark.parametrize(
    ("name", "channels", "kernel", "scale"),
    [
        ("srresnet_x2", 1, 9, 2),
        ("srresnet_x4", 1, 9, 4),
        ("srresnet_3x3_x4", 3, 3, 4),
        ("srresnet_binary_x4", 1, 9, 4),
    ],
)
def test_multiplications_by_hand(name, channels, kernel, scale):
    # One MAC a weight and position [Kung-Hou, Table 6], no BatchNorm, no bias.
    ends = kernel**2 * channels * 64
    macs = ends + 33 * 9 * 64 * 64 + scale**2 * ends  # per pixel of the small image
    macs += sum(4**step * 9 * 64 * 256 for step in range(doublings(scale)))
    image = torch.empty(1, channels, HEIGHT, WIDTH, device="meta")
    assert count_macs(on_meta(name, channels), image) == HEIGHT * WIDTH * macs


@pytest.mark.parametrize(("scale", "millions", "megabytes"), [(2, 1.375, 5.499), (4, 1.522, 6.089)])
def test_the_sizes_of_kung_hou_table_6_have_biases_outside_the_body_only(
    scale, millions, megabytes
):
    # "1.375M, 5.499 MB" and "1.522M, 6.089 MB" for float32: neither all biases nor none fit.
    model = on_meta(f"srresnet_binary_x{scale}", 1)
    kept = sum(
        p.numel()
        for name, p in model.named_parameters()
        if not (name.startswith("body") and name.endswith("bias"))
    )
    assert round(kept / 1e6, 3) == millions
    assert round(4 * kept / 1e6, 3) == megabytes


def test_one_network_for_one_and_three_channels():
    for channels in (1, 3):
        model = build_model("srresnet_x2", input_shape=(channels, 8, 8))
        assert model.head.in_channels == model.tail.out_channels == channels


def test_block_is_its_formula():
    torch.manual_seed(0)
    block, x = ResidualBlock(3, norm=True).eval(), torch.randn(2, 3, 5, 4)
    for norm in (block.norm1, block.norm2):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)

    def normalise(y, norm):
        mean, var = (s.reshape(1, -1, 1, 1) for s in (norm.running_mean, norm.running_var))
        return (y - mean) / (var + 1e-5).sqrt()

    h = normalise(F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1), block.norm1)
    y = F.conv2d(h.clamp(min=0), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), x + normalise(y, block.norm2))


def test_the_long_skip_starts_behind_the_first_activation():
    torch.manual_seed(0)
    model = SRResNet(scale=2, kernel=3, width=4, blocks=2)
    nn.init.zeros_(model.body[-2].weight)
    x = torch.randn(1, 1, 6, 6)
    expected = model.tail(model.up(model.head(x).clamp(min=0)))
    torch.testing.assert_close(model(x), expected)
    nn.init.dirac_(model.body[-2].weight)
    assert not torch.allclose(model(x), expected)


def test_a_shuffle_lays_four_channels_into_two_by_two_pixels():
    up = shuffle_up(1, 2, bias=False, relu=True)
    with torch.no_grad():
        up[0].weight.zero_()
        up[0].weight[:, 0, 1, 1] = torch.tensor([1.0, 2.0, -3.0, 4.0])
    out = up(torch.tensor([[[[1.0, 10.0]]]]))
    assert out[0, 0].tolist() == [[1, 2, 10, 20], [0, 4, 0, 40]]


@pytest.mark.parametrize("scale", [-2, 0, 1, 3, 6])
def test_scales_that_are_no_powers_of_two_are_refused(scale):
    with pytest.raises(ConfigError, match=rf"scale of {scale} .*choose 2, 4 or 8"):
        SRResNet(scale)
    assert [doublings(s) for s in (2, 4, 8)] == [1, 2, 3]


def test_entries_know_their_scale():
    for name in ("srresnet", "srresnet_3x3", "srresnet_binary"):
        assert [MODELS[f"{name}_x{s}"].scale for s in (2, 4)] == [2, 4]
