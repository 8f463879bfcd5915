import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.evaluation import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.dxnet import DxNetSR, dxnet_classifier, dxnet_denoiser
from prunus.models.xunit import XUnit


def size(model):
    return sum(p.numel() for p in model.parameters())


def on_meta(name, channels=None):
    entry = MODELS[name]
    usual, *sides = entry.input_shape
    with torch.device("meta"):
        return build_model(
            name,
            num_classes=entry.num_classes or None,
            input_shape=(channels or usual, *sides),
        )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dxnet12", 532_162),
        ("dxnet19", 1_090_930),
        ("dxnet444", 142_849),
        ("dxnet468", 222_001),
        ("dxnet16_x2", 713_039),
        ("dxnet16_x3", 897_679),
        ("dxnet16_x4", 860_752),  # printed: 0.86 M
        ("dxnet32_x2", 912_108),
        ("dxnet32_x3", 1_096_748),
        ("dxnet32_x4", 1_059_821),
    ],
)
def test_exact_parameter_counts(name, count):
    assert size(on_meta(name)) == count


def test_exact_parameter_counts_with_kernels_of_seven():
    with torch.device("meta"):
        small, large = (
            dxnet_classifier((n,) * 3, kernel=7, initial=16, bias=False) for n in (12, 19)
        )
        assert size(small) == 505_034  # printed: 0.5 M
        assert size(large) == 1_049_158  # printed: 1.0 M
        assert size(dxnet_denoiser(kernel=7)) == 134_657


def test_a_denoiser_is_a_quarter_of_dncnn():
    # [Dense-xUnit, section 4.3]: "its size is one fourth of DnCNN in terms of number of parameters"
    assert round(556_096 / size(on_meta("dxnet444"))) == 4


@pytest.mark.parametrize("name", ["dxnet16_x4", "dxnet444"])
def test_luminance_and_rgb_differ_at_both_ends_only(name):
    maps = {"dxnet16_x4": (32, 64), "dxnet444": (64, 128)}[name]  # of the first and last conv
    gray, colour = on_meta(name, 1), on_meta(name, 3)
    assert size(colour) - size(gray) == 2 * (9 * maps[0] + 25 * maps[1] + 1)


@pytest.mark.parametrize(
    ("name", "twin"),
    [("dxnet444", "densenet444"), ("dxnet468", "densenet468")],
)
def test_a_denoisers_twin_is_the_same_without_units(name, twin):
    plain = {k: tuple(t.shape) for k, t in on_meta(twin).state_dict().items()}
    units = {k: tuple(t.shape) for k, t in on_meta(name).state_dict().items() if "unit" not in k}
    assert units == plain


@pytest.mark.parametrize("name", ["dxnet12", "dxnet19"])
def test_multiplications_by_hand(name):
    # One MAC a weight of a convolution or the linear map and position; no BN, no bias.
    def unit(k):
        return k * k + 81 * k

    maps, pixels = 24, 32 * 32
    macs = (27 * maps + unit(maps)) * pixels
    for block in range(3):
        if block:
            macs += maps * (maps // 2) * pixels
            maps, pixels = maps // 2, pixels // 4
        for _ in range(int(name[5:])):
            macs += (maps * 48 + 9 * 48 * 12 + unit(12)) * pixels
            maps += 12
    macs += maps * 10
    assert count_macs(on_meta(name), torch.empty(1, 3, 32, 32, device="meta")) == macs


@pytest.mark.parametrize(("growth", "layers"), [(16, (4, 4, 4, 6, 8, 8, 8)), (32, (4, 6, 8))])
def test_super_resolutions_multiplications_by_hand(growth, layers):
    def unit(k):
        return k * k + 81 * k

    maps = 2 * growth
    body = 27 * maps + unit(maps)  # all per pixel of the small image
    for block, count in enumerate(layers):
        if block:
            body += maps * (maps // 2)
            maps //= 2
        for _ in range(count):
            body += maps * 2 * growth + 9 * 2 * growth * growth + unit(growth)
            maps += growth
    body += maps * 64
    image = torch.empty(1, 3, 8, 8, device="meta")
    ends = 9 * 64 * 64 + 25 * 64 * 3  # per pixel of the large image
    for scale, up in ((2, 9 * 64 * 256), (3, 9 * 64 * 576), (4, (1 + 4) * 9 * 64 * 256)):
        macs = 64 * (body + up + scale**2 * ends)
        assert count_macs(on_meta(f"dxnet{growth}_x{scale}"), image) == macs


def test_every_3x3_convolution_of_a_classifier_has_an_xunit_behind_it():
    with torch.device("meta"):
        net = dxnet_classifier((2, 3))
    units = [name for name, module in net.named_modules() if isinstance(module, XUnit)]
    layers = [f"trunk.blocks.{b}.layers.{i}.unit" for b, n in ((0, 2), (1, 3)) for i in range(n)]
    assert units == ["unit", *layers]
    assert all(net.get_submodule(name).gate.__class__ is nn.Sigmoid for name in units)


def test_super_resolution_has_prelu_and_no_norm():
    kinds = {type(module) for module in on_meta("dxnet16_x2").modules()}
    assert nn.PReLU in kinds
    assert nn.BatchNorm2d not in kinds
    assert nn.Dropout not in kinds


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_super_resolution_adds_to_the_enlarged_image(scale, channels):
    torch.manual_seed(0)
    net = DxNetSR((1,), channels, scale=scale, growth=2, bottleneck=1, kernel=3, width=4)
    x = torch.randn(1, channels, 5, 6)
    nn.init.zeros_(net.to_image.weight)
    nn.init.constant_(net.to_image.bias, 2.0)
    large = F.interpolate(x, size=(5 * scale, 6 * scale), mode="bilinear")
    torch.testing.assert_close(net(x), large + 2)


@pytest.mark.parametrize("scale", [0, 1, 5, 8])
def test_other_scales_are_refused(scale):
    with pytest.raises(ConfigError, match=rf"scale {scale}: choose one of 2, 3, 4"):
        DxNetSR(scale=scale)
