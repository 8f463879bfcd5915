import pytest
import torch

from prunus.evaluation.size import count_params
from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.mlp import MLP


def test_exact_counts():
    model = build_model("mlp_mnist", num_classes=10, input_shape=(1, 28, 28))
    assert count_params(model) == 3_985_770  # with biases
    macs = 784 * 1024 + 3 * 1024 * 1024 + 1024 * 32 + 32 * 10
    assert count_macs(model, torch.empty(1, 1, 28, 28)) == macs


def test_affine_maps_with_relu_between():
    torch.manual_seed(0)
    model = MLP(num_classes=3, in_features=24, hidden=(7, 5))
    x = torch.randn(6, 2, 3, 4)
    h = x.reshape(6, 24)
    for layer in (model.hidden[0], model.hidden[2]):
        torch.nn.init.normal_(layer.bias)
        h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(x), h @ model.fc.weight.T + model.fc.bias)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9)])
def test_takes_images_of_any_shape(shape):
    model = build_model("mlp_mnist", num_classes=4, input_shape=shape)
    assert model(torch.randn(2, *shape)).shape == (2, 4)


def test_the_signal_gets_through():
    # The square of a unit's input, averaged, stays near that of the image: 1.
    torch.manual_seed(0)
    seen = []
    model = MLP()
    model.fc.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    model(torch.randn(256, 784))
    assert 0.3 < seen[0].square().mean() < 3
