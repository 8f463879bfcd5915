import pytest
import torch
import torchvision

from prunus.core.errors import ConfigError
from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.squeezenet import Fire, SqueezeNet
from tests.models.parity import copy_in_order_


@pytest.mark.parametrize(
    ("name", "num_classes", "side", "params"),
    [
        ("squeezenet", 1000, 224, 1_235_496),  # torchvision's squeezenet1_1, biases count
        ("squeezenet_cifar", 10, 32, 1_235_496 - 990 * (512 + 1)),
    ],
)
def test_exact_counts_by_hand(name, num_classes, side, params):
    with torch.device("meta"):
        model = build_model(name, num_classes=num_classes, input_shape=(3, side, side))
    assert count_params(model) == params
    # sizes after the stem's pooling and the two others: 3×3, stride 2, rounded up
    first, sizes = {224: (111, (55, 27, 13)), 32: (32, (16, 8, 4))}[side]
    macs, width = 3 * 64 * 9 * first**2, 64
    for squeeze, size in zip(
        (16, 16, 32, 32, 48, 48, 64, 64), [sizes[i] for i in (0, 0, 1, 1, 2, 2, 2, 2)], strict=True
    ):
        macs += (width * squeeze + squeeze * 4 * squeeze * (1 + 9)) * size**2
        width = 8 * squeeze
    macs += 512 * num_classes * sizes[2] ** 2
    assert count_macs(model, torch.empty(1, 3, side, side)) == macs  # MAC, no bias


def test_parity_with_torchvision():
    torch.manual_seed(0)
    mine = SqueezeNet(num_classes=5)
    theirs = torchvision.models.squeezenet1_1(num_classes=5)
    mine, theirs = copy_in_order_(mine, theirs)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(mine(x), expected)


def test_fire_puts_points_before_patches():
    torch.manual_seed(0)
    fire = Fire(4, 2, 3)
    x = torch.randn(2, 4, 5, 5)
    squeezed = fire.squeeze(x).clamp(min=0)
    out = fire(x)
    torch.testing.assert_close(out[:, :3], fire.expand1x1(squeezed).clamp(min=0))
    torch.testing.assert_close(out[:, 3:], fire.expand3x3(squeezed).clamp(min=0))


@pytest.mark.parametrize(("name", "side"), [("squeezenet", 17), ("squeezenet_cifar", 8)])
def test_takes_the_smallest_image_and_refuses_a_smaller_one(name, side):
    model = build_model(name, num_classes=3, input_shape=(1, side, side + 3)).eval()
    assert model(torch.zeros(1, 1, side, side + 3)).shape == (1, 3)
    with pytest.raises(ConfigError, match=rf"{name} needs images of at least {side}×{side}"):
        build_model(name, num_classes=3, input_shape=(1, side + 3, side - 1))
