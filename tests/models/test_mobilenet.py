import pytest
import torch
import torchvision
from torch import nn

from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.mobilenet import InvertedResidual, MobileNetV1, MobileNetV2
from tests.models.parity import copy_in_order_


def on_paper(name, num_classes, side):
    with torch.device("meta"):
        model = build_model(name, num_classes=num_classes, input_shape=(3, side, side))
    return model, torch.empty(1, 3, side, side)


def count_without_norms(model):
    return count_params(model) - sum(
        count_params(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_exact_counts_of_v2_on_imagenet():
    model, example = on_paper("mobilenet_v2", 1000, 224)
    # [Kung-Hou, Table 1]: 3.47M parameters without BatchNorm, 300M FLOPs as MAC
    assert count_without_norms(model) == 3_470_760
    assert round(count_macs(model, example) / 1e6, 1) == 300.8
    assert count_macs(model, example) == 300_774_272
    assert count_params(model) == 3_504_872  # torchvision's, BatchNorm counts


def test_exact_counts_of_v2_on_cifar100():
    model, example = on_paper("mobilenet_v2_cifar", 100, 32)
    assert count_params(model) == 2_351_972  # BatchNorm counts
    macs = count_macs(model, example)
    assert macs == 88_091_648
    assert round(macs / 1e6, 2) == 88.09  # [Kung-slides] prints 1.8e8 operations


@pytest.mark.parametrize(
    ("name", "num_classes", "side", "strides"),
    [
        ("mobilenet_v1", 1000, 224, (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)),
        ("mobilenet_v1_cifar", 10, 32, (1, 1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)),
    ],
)
def test_exact_counts_of_v1_by_hand(name, num_classes, side, strides):
    # [MobileNet, Table 1]
    model, example = on_paper(name, num_classes, side)
    widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    side //= strides[0]
    params, macs = 3 * 32 * 9 + 2 * 32, 3 * 32 * 9 * side**2
    for place in range(1, 14):
        side //= strides[place]
        before, after = widths[place - 1], widths[place]
        params += before * 9 + 2 * before + before * after + 2 * after
        macs += (before * 9 + before * after) * side**2
    assert count_params(model) == params + 1024 * num_classes + num_classes
    assert count_macs(model, example) == macs + 1024 * num_classes


def test_published_counts_of_v1():
    model, example = on_paper("mobilenet_v1", 1000, 224)
    assert count_params(model) == 4_231_976  # 4.2 M and 569 MMAC in the paper
    assert count_macs(model, example) == 568_740_352
    small, _ = on_paper("mobilenet_v1_cifar", 10, 32)
    assert count_params(small) == 3_217_226  # [Tian, Table 4-4]: 3.2M


def test_parity_of_v2_with_torchvision():
    torch.manual_seed(0)
    mine, theirs = MobileNetV2(num_classes=5), torchvision.models.mobilenet_v2(num_classes=5)
    mine, theirs = copy_in_order_(mine, theirs)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("kind", [MobileNetV1, MobileNetV2])
@pytest.mark.parametrize(("small", "side"), [(True, 4), (False, 1)])
def test_features_of_small_images(kind, small, side):
    model = kind(num_classes=10, small_images=small).eval()
    with torch.no_grad():
        assert model.features(torch.zeros(1, 3, 32, 32)).shape[2:] == (side, side)


def test_v1_follows_every_convolution_by_norm_and_relu():
    features = MobileNetV1().features
    kinds = [type(module) for module in features]
    assert kinds == 27 * [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    depthwise = [m for m in features[3:] if isinstance(m, nn.Conv2d)][::2]
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)


def test_inverted_residual_adds_only_where_the_shape_stays():
    x = torch.randn(2, 4, 6, 6)
    for block, adds in (
        (InvertedResidual(4, 4, 6, 1), True),
        (InvertedResidual(4, 4, 6, 2), False),
        (InvertedResidual(4, 5, 6, 1), False),
    ):
        block.eval()
        expected = block.body(x) + x if adds else block.body(x)
        assert torch.equal(block(x), expected)


@pytest.mark.parametrize("name", ["mobilenet_v1_cifar", "mobilenet_v2_cifar", "mobilenet_v2"])
def test_takes_other_images(name):
    model = build_model(name, num_classes=3, input_shape=(1, 28, 20)).eval()
    assert model(torch.randn(1, 1, 28, 20)).shape == (1, 3)
