import copy

import pytest
import torch
from torch import nn

from prunus.core.errors import ConfigError, UnknownNameError
from prunus.models import build_model

SHAPES = [(10, (1, 28, 28)), (3, (3, 32, 32)), (2, (4, 16, 16))]
SMALL = ("lenet300", "lenet5", "resnet20")


@pytest.mark.parametrize("num_classes, input_shape", SHAPES)
@pytest.mark.parametrize("name", SMALL)
def test_builds_for_any_shape(name, num_classes, input_shape):
    torch.manual_seed(0)
    model = build_model(name, num_classes=num_classes, input_shape=input_shape)
    torch.manual_seed(0)
    again = build_model(name, num_classes=num_classes, input_shape=input_shape)
    assert isinstance(model, nn.Module)
    for (key, mine), (other, its) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(mine, its)

    x = torch.randn(2, *input_shape)
    out = model(x)
    assert out.shape == (2, num_classes)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key

    model.eval()
    assert torch.equal(model(x), copy.deepcopy(model)(x))
    model, x = model.double(), x.double()  # an image's logits do not depend on its batch
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-8, atol=1e-8)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as caught:
        build_model("lenet6", num_classes=10, input_shape=(1, 28, 28))
    message = str(caught.value)
    assert "unknown model 'lenet6' (did you mean 'lenet5'?)" in message
    for part in ("lenet300", "resnet56", "torchvision:NAME", "timm:NAME", "file.py:factory"):
        assert part in message


@pytest.mark.parametrize("num_classes", [0, -1])
def test_refuses_no_classes(num_classes):
    with pytest.raises(ConfigError, match=f"num_classes is {num_classes}, expected at least 1"):
        build_model("lenet5", num_classes=num_classes, input_shape=(1, 28, 28))


@pytest.mark.parametrize("input_shape", [(28, 28), (1, 0, 28), (1, 28, -28)])
def test_refuses_a_shape_that_is_none(input_shape):
    with pytest.raises(ConfigError, match="expected three positive numbers"):
        build_model("lenet5", num_classes=10, input_shape=input_shape)


@pytest.mark.parametrize("spec", ["lenet5", "torchvision:resnet18", "timm:resnet18"])
def test_a_classifier_needs_a_number_of_classes(spec):
    with pytest.raises(ConfigError, match=f"{spec} is a classifier: give num_classes"):
        build_model(spec, input_shape=(3, 32, 32))
