import pytest
import torch
from torch import nn

from prunus.evaluation import count_bytes, count_macs, count_params
from prunus.models import build_model


def macs_by_hand(model: nn.Module, x: torch.Tensor) -> int:
    """Oracle: count the products of every convolution and linear layer from its definition."""
    total = 0

    def hook(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            each = module.in_channels // module.groups * module.kernel_size[0] ** 2
            total += output[0].numel() * each
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    for module in model.modules():
        module.register_forward_hook(hook)
    model.eval()(x)
    return total


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("lenet300", (1, 28, 28)),
        ("lenet5", (1, 28, 28)),
        ("resnet20", (3, 32, 32)),
        ("torchvision:mobilenet_v2", (3, 64, 64)),
    ],
)
def test_macs_equal_a_count_by_hand(spec: str, shape: tuple[int, int, int]) -> None:
    model = build_model(spec, num_classes=10, input_shape=shape)
    x = torch.randn(1, *shape)
    assert count_macs(model, x.expand(5, *shape)) == macs_by_hand(model, x)


@pytest.mark.parametrize(
    ("spec", "shape", "params", "macs"),
    [
        ("lenet300", (1, 28, 28), 266_610, 266_200),
        ("lenet5", (1, 28, 28), 431_080, 2_293_000),
        ("resnet56", (3, 32, 32), 853_018, 125_485_696),
    ],
)
def test_published_counts(spec: str, shape: tuple[int, int, int], params: int, macs: int) -> None:
    model = build_model(spec, num_classes=10, input_shape=shape)
    assert count_params(model) == params
    assert count_macs(model, torch.zeros(1, *shape)) == macs


def test_bytes_count_buffers_and_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    numbers = (3 * 2 + 2) + 4 * 2  # weights and biases; scale, shift, mean, variance
    assert count_bytes(model) == 4 * numbers + 8  # and an int64 counter
