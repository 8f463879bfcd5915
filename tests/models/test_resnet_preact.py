import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError
from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.resnet_preact import PreactBottleneck, PreactResNet
from tests.conftest import randomise_norms_


def test_exact_counts_of_resnet164_on_cifar100():
    with torch.device("meta"):
        model = build_model("preact_resnet164", num_classes=100, input_shape=(3, 32, 32))
    assert count_params(model) == 1_726_388  # BatchNorm counts
    macs = count_macs(model, torch.empty(1, 3, 32, 32))  # BatchNorm does not
    assert macs == 247_669_760
    assert round(macs / 1e6, 1) == 247.7  # [Kung-Hou, section 6.2] prints 185M as 2.72x fewer


def test_depth_counts_convolutions_and_the_last_layer():
    with torch.device("meta"):
        model = PreactResNet(164)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.endswith("projection")
    ]
    assert len(layers) == 164
    projections = [name for name, _ in model.named_modules() if name.endswith("projection")]
    assert projections == [f"layer{stage}.0.projection" for stage in (1, 2, 3)]


@pytest.mark.parametrize(("in_planes", "stride"), [(8, 1), (8, 2), (6, 1)])
def test_unit_by_hand(in_planes, stride):
    torch.manual_seed(0)
    unit = randomise_norms_(PreactBottleneck(in_planes, 2, stride)).eval()
    x = torch.randn(3, in_planes, 6, 6)

    def activate(norm, h):
        shape = (1, -1, 1, 1)
        h = (h - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
        return (h * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)

    first = activate(unit.bn1, x)
    h = torch.einsum("oi,bihw->bohw", unit.conv1.weight[:, :, 0, 0], first)
    h = F.conv2d(activate(unit.bn2, h), unit.conv2.weight, stride=stride, padding=1)
    h = torch.einsum("oi,bihw->bohw", unit.conv3.weight[:, :, 0, 0], activate(unit.bn3, h))
    if unit.projection is None:
        assert (in_planes, stride) == (8, 1)
        shortcut = x  # not activated
    else:  # the first BN and ReLU serve the projection too
        kernel = unit.projection.weight[:, :, 0, 0]
        shortcut = torch.einsum("oi,bihw->bohw", kernel, first[:, :, ::stride, ::stride])
    torch.testing.assert_close(unit(x), h + shortcut)


def test_takes_other_images():
    model = PreactResNet(11, num_classes=3, in_channels=1).eval()
    assert model(torch.randn(2, 1, 28, 20)).shape == (2, 3)


@pytest.mark.parametrize("depth", [163, 57, 2])
def test_refuses_a_depth_that_bottlenecks_do_not_make(depth):
    with pytest.raises(ConfigError, match=rf"depth {depth} was requested.*9·n \+ 2"):
        PreactResNet(depth)
