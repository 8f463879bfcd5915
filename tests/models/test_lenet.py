import pytest
import torch

from prunus.core.errors import ConfigError
from prunus.graph.counting import count_macs
from prunus.models import LeNet5, LeNet300, build_model


@pytest.mark.parametrize(("kind", "count"), [(LeNet300, 266_610), (LeNet5, 431_080)])
def test_exact_parameter_counts(kind, count):
    assert sum(p.numel() for p in kind().parameters()) == count


def test_lenet5_multiplications_by_hand():
    model = LeNet5()
    macs = 24 * 24 * model.conv1.weight.numel() + 8 * 8 * model.conv2.weight.numel()
    macs += model.fc1.weight.numel() + model.fc2.weight.numel()
    assert macs == 2_293_000


@pytest.mark.parametrize(
    ("name", "macs"),
    [("lenet300", 784 * 300 + 300 * 100 + 100 * 10), ("lenet5", 2_293_000)],
)
def test_exact_multiplications(name, macs):
    # MAC, without biases; [Kung-slides] prints 4.59e6 operations for LeNet-5
    model = build_model(name, num_classes=10, input_shape=(1, 28, 28))
    assert count_macs(model, torch.empty(1, 1, 28, 28)) == macs


def test_lenet300_is_three_affine_maps_with_relu_between():
    torch.manual_seed(0)
    model = LeNet300(num_classes=3, in_channels=2, image_size=4)
    x = torch.randn(5, 2, 4, 4)
    h = x.reshape(5, 32)
    for layer in (model.fc1, model.fc2):
        h = (h @ layer.weight.T + layer.bias).clamp(min=0)
    expected = h @ model.fc3.weight.T + model.fc3.bias
    torch.testing.assert_close(model(x), expected)


def test_lenet5_is_linear_up_to_the_pooling():
    # Caffe's LeNet has no ReLU after its convolutions: scaling a bias-free front end scales fc1's
    # input also where activations are negative.
    torch.manual_seed(0)
    model = LeNet5()
    torch.nn.init.zeros_(model.conv1.bias)
    torch.nn.init.zeros_(model.conv2.bias)
    seen = []
    model.fc1.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    x = torch.randn(2, 1, 28, 28)
    model(x)
    model(3 * x)
    assert seen[0].min() < 0
    torch.testing.assert_close(seen[1], 3 * seen[0])


def test_lenet5_takes_the_smallest_image_and_refuses_a_smaller_one():
    assert LeNet5(image_size=16)(torch.zeros(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ConfigError, match=r"images of 15×15.*at least 16×16"):
        LeNet5(image_size=15)


@pytest.mark.parametrize("name", ["lenet300", "lenet5"])
def test_lenets_refuse_oblong_images(name):
    with pytest.raises(ConfigError, match=f"{name} takes square images, not 28×32"):
        build_model(name, num_classes=10, input_shape=(1, 28, 32))
