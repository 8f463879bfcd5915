import pytest
import torch
import torchvision
from torchvision.models import vgg as published

from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.vgg import STAGES_16, STAGES_19, VGG
from tests.models.parity import copy_in_order_


def on_paper(name, num_classes, side):
    with torch.device("meta"):
        return build_model(name, num_classes=num_classes, input_shape=(3, side, side))


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("vgg16", 10, 14_990_922),  # the convolutions' biases and BatchNorm count
        ("vgg16_nofc", 10, 14_990_922 - (512 * 512 + 512)),
        ("vgg16_fc4096", 10, 134_301_514),  # biases, no BatchNorm
        ("vgg19", 100, 20_086_692),  # biases and BatchNorm, no hidden layer
    ],
)
def test_exact_parameter_counts(name, num_classes, count):
    assert count_params(on_paper(name, num_classes, 64)) == count


@pytest.mark.parametrize(
    ("name", "head", "macs"),
    [("vgg16", 512 * 512 + 512 * 10, 313_463_808), ("vgg16_nofc", 512 * 10, 313_201_664)],
)
def test_exact_multiplications_of_vgg16_by_hand(name, head, macs):
    # MAC, without bias and BatchNorm; it is 313.5 M with the fc of 512.
    # The slides' 6.26e8 FLOPs are those without it.
    features, width, side = 0, 3, 32
    for stage in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for channels in stage:
            features += width * channels * 9 * side**2
            width = channels
        side //= 2
    assert features + head == macs
    assert count_macs(on_paper(name, 10, 32), torch.empty(1, 3, 32, 32)) == macs


def test_flops_of_vgg16_as_printed():
    macs = count_macs(on_paper("vgg16", 10, 32), torch.empty(1, 3, 32, 32))
    assert round(macs / 1e6, 1) == 313.5


def test_fc4096_is_the_published_network():
    mine = on_paper("vgg16_fc4096", 1000, 224)
    with torch.device("meta"):
        theirs = torchvision.models.vgg16()
    shapes = [[p.shape for p in model.parameters()] for model in (mine, theirs)]
    assert shapes[0] == shapes[1]
    example = torch.empty(1, 3, 224, 224)
    assert count_macs(mine, example) == count_macs(theirs, example) == 15_470_264_320
    kinds = [[type(layer) for layer in model.classifier] for model in (mine, theirs)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    ("stages", "letter", "norm"),
    [(STAGES_16, "D", False), (STAGES_16, "D", True), (STAGES_19, "E", True)],
)
def test_features_are_the_published_ones(stages, letter, norm):
    torch.manual_seed(0)
    mine = VGG(stages, norm=norm).features
    theirs = published.make_layers(published.cfgs[letter], batch_norm=norm)
    mine, theirs = copy_in_order_(mine, theirs)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(mine(x), theirs(x))


def test_head_by_hand():
    torch.manual_seed(0)
    model = VGG(((4,), (6,)), num_classes=3, hidden=(5,)).eval()
    x = torch.randn(2, 3, 4, 4)
    h = model.features(x)
    assert h.shape == (2, 6, 1, 1)
    first, last = model.classifier[0], model.classifier[2]
    h = (h.reshape(2, 6) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(model(x), h @ last.weight.T + last.bias)


@pytest.mark.parametrize("side", [16, 28, 32, 50])
def test_takes_images_of_any_side(side):
    model = VGG(((4,),) * 5, in_channels=1).eval()
    assert model(torch.randn(2, 1, side, side)).shape == (2, 10)


def test_the_grid_is_kept_where_it_fits_and_filled_where_the_image_is_small():
    torch.manual_seed(0)
    model = VGG(((4,),) * 5, hidden=(8, 8), grid=7, norm=False, dropout=0.5).eval()
    x = torch.randn(1, 3, 224, 224)
    features = model.features(x)
    assert features.shape == (1, 4, 7, 7)
    torch.testing.assert_close(model.pool(features), features)
    assert model(x[:, :, :64, :64]).shape == (1, 10)
