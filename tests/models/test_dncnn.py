import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError
from prunus.evaluation import count_macs
from prunus.models import build_model
from prunus.models.families.dncnn import DnCNN


def on_meta(name, channels):
    with torch.device("meta"):
        return build_model(name, input_shape=(channels, 40, 40))


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [("dncnn", 1, 556_096), ("dncnn_b", 1, 667_072), ("dncnn_b", 3, 669_376)],
)
def test_exact_parameter_counts(name, channels, count):
    # A bias in the first convolution only, BatchNorm's scale and shift in all but the outer two.
    assert sum(p.numel() for p in on_meta(name, channels).parameters()) == count


@pytest.mark.parametrize(("name", "inner"), [("dncnn", 15), ("dncnn_b", 18)])
def test_multiplications_by_hand(name, inner):
    # One MAC a weight and position, no BatchNorm, no bias.
    macs = 9 * 64 + inner * 9 * 64 * 64 + 9 * 64
    image = torch.empty(1, 1, 40, 30, device="meta")
    assert count_macs(on_meta(name, 1), image) == 40 * 30 * macs


def test_with_its_batchnorms_folded_it_has_a_bias_in_each_convolution():
    convolutions = [m for m in on_meta("dncnn", 1).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 17
    assert sum(m.weight.numel() + m.out_channels for m in convolutions) == 555_137


def test_it_subtracts_the_noise_it_finds():
    torch.manual_seed(0)
    model, x = DnCNN(depth=4, width=5).eval(), torch.randn(2, 1, 9, 7)
    kinds = [type(m).__name__ for m in model.noise]
    middle = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == ["Conv2d", "ReLU", *middle, *middle, "Conv2d"]
    torch.testing.assert_close(model(x), x - model.noise(x))
    nn.init.zeros_(model.noise[-1].weight)
    assert torch.equal(model(x), x)


def test_its_depth_is_its_receptive_field():
    # Section III-A: a depth of d sees 2d + 1 pixels a side.
    model = DnCNN(depth=3, width=4).eval()
    nn.init.zeros_(model.noise[0].bias)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    x = torch.zeros(1, 1, 11, 11)
    x[..., 5, 5] = 1
    assert model(x).ne(0).sum() == 7 * 7


def test_a_chain_needs_two_layers():
    with pytest.raises(ConfigError, match="at least 2 layers, got 1"):
        DnCNN(depth=1)
