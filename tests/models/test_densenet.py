import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.densenet import _DenseBlock, _Transition

from prunus.core.errors import ConfigError
from prunus.evaluation import count_macs
from prunus.models import MODELS, build_model
from prunus.models.families.densenet import (
    DenseBlock,
    DenseDenoiser,
    DenseForm,
    DenseLayer,
    DenseNet,
    DenseTrunk,
    Transition,
)
from tests.conftest import randomise_norms_
from tests.models.parity import copy_in_order_


def on_meta(name):
    entry = MODELS[name]
    with torch.device("meta"):
        return build_model(
            name, num_classes=entry.num_classes or None, input_shape=entry.input_shape
        )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("densenet16", 769_162),
        ("densenet26", 1_739_002),
        ("densenet444", 112_897),
        ("densenet468", 181_969),
    ],
)
def test_exact_parameter_counts(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


@pytest.mark.parametrize("layers", [16, 26])
def test_multiplications_by_hand(layers):
    # One MAC a weight of a convolution or the linear map and position; no BN, no bias.
    maps, pixels = 24, 32 * 32
    macs = 27 * maps * pixels
    for block in range(3):
        if block:
            macs += maps * (maps // 2) * pixels  # the 1×1 convolution stands before the pooling
            maps, pixels = maps // 2, pixels // 4
        for _ in range(layers):
            macs += (maps * 48 + 9 * 48 * 12) * pixels
            maps += 12
    macs += maps * 10
    image = torch.empty(1, 3, 32, 32, device="meta")
    assert count_macs(on_meta(f"densenet{layers}"), image) == macs


@pytest.mark.parametrize("layers", [(4, 4, 4), (4, 6, 8)])
def test_a_denoisers_multiplications_by_hand(layers):
    maps, macs = 64, 9 * 64  # per pixel
    for block, count in enumerate(layers):
        if block:
            macs += maps * (maps // 2)
            maps //= 2
        for _ in range(count):
            macs += maps * 32 + 9 * 32 * 16
            maps += 16
    macs += 25 * maps
    name = "densenet" + "".join(map(str, layers))
    assert count_macs(on_meta(name), torch.empty(1, 1, 10, 10, device="meta")) == 100 * macs


def test_block_and_transition_are_torchvisions():
    torch.manual_seed(0)
    form = DenseForm(growth=4, bottleneck=3)
    mine, theirs = copy_in_order_(DenseBlock(6, 3, form), _DenseBlock(3, 6, 3, 4, 0.0))
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(mine(x), theirs(x))
    mine, theirs = copy_in_order_(Transition(6, 3, form, pool=True), _Transition(6, 3))
    torch.testing.assert_close(mine(x), theirs(x))


def test_a_block_keeps_what_it_is_given_and_adds():
    torch.manual_seed(0)
    form = DenseForm(growth=4, bottleneck=2)
    block = DenseBlock(6, 2, form).eval()
    x = torch.randn(1, 6, 5, 5)
    out = block(x)
    assert out.shape == (1, 14, 5, 5)
    assert torch.equal(out[:, :6], x)
    assert torch.equal(out[:, 6:10], block.layers[0](x))
    block.layers.append(DenseLayer(14, form).eval())  # growing: one more layer at the end
    longer = block(x)
    assert torch.equal(longer[:, :14], out)
    assert torch.equal(longer[:, 14:], block.layers[2](out))


def test_the_classifier_is_its_steps():
    torch.manual_seed(0)
    net = randomise_norms_(DenseNet((1, 2), 5, 2, growth=3, bottleneck=2, initial=4)).eval()
    x = torch.randn(3, 2, 6, 6)
    h = F.conv2d(x, net.conv.weight, padding=1)
    h = net.trunk.blocks[0](h)  # 7 maps
    h = net.trunk.blocks[1](net.trunk.transitions[0](h))  # 3, then 9
    assert h.shape == (3, 9, 3, 3)
    norm = net.last[0]
    mean, var, scale, shift = (
        t.reshape(1, -1, 1, 1)
        for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    h = ((h - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0).mean((2, 3))
    torch.testing.assert_close(net(x), h @ net.linear.weight.T + net.linear.bias)


def test_dropout_follows_every_convolution_but_the_first():
    net = DenseNet((2, 1), growth=2, bottleneck=1, initial=4, dropout=0.2)
    rates = [module.p for module in net.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.2] * (2 * 3 + 1)  # two in each of three layers, one in a transition
    assert not any(isinstance(module, nn.Dropout) for module in DenseNet((2,)).modules())


def test_the_denoiser_takes_away_what_its_last_convolution_says():
    torch.manual_seed(0)
    net = DenseDenoiser((1,), in_channels=3, growth=2, bottleneck=1, initial=4).eval()
    x = torch.randn(2, 3, 9, 7)
    noise = net.to_image(net.trunk(net.conv(x)))
    assert noise.abs().max() > 0
    torch.testing.assert_close(net(x), x - noise)


@pytest.mark.parametrize("layers", [(), (4, 0, 4), (-1,)])
def test_blocks_without_layers_are_refused(layers):
    with pytest.raises(ConfigError, match=r"at least one block, and a layer in each"):
        DenseTrunk(8, layers, DenseForm(growth=4, bottleneck=2), pool=True)
