import importlib.util

import pytest
import torch

from prunus.graph.counting import count_macs
from prunus.models import build_model
from prunus.models.families.resnet_cifar import Shortcut


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_exact_parameter_counts(name, count):
    model = build_model(name, num_classes=10, input_shape=(3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_exact_multiplications_by_hand(name, blocks):
    # MAC, without BatchNorm and bias
    with torch.device("meta"):
        model = build_model(name, num_classes=10, input_shape=(3, 32, 32))
    stem = 3 * 16 * 9 * 32**2
    same = 16 * 16 * 9 * 32**2  # a convolution that keeps its width costs this in every stage
    macs = stem + (6 * blocks - 2) * same + 2 * same // 2 + 64 * 10
    assert count_macs(model, torch.empty(1, 3, 32, 32)) == macs
    if name == "resnet56":
        assert macs == 125_485_696
        assert round(macs / 1e6, 2) == 125.49  # [Kung-Hou, Table 3] prints 250M operations


def test_shortcut_subsamples_and_pads_half_on_each_side():
    x = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    out = Shortcut(padding=1)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 0].eq(0).all()
    assert out[0, 3].eq(0).all()
    assert out[0, 1].tolist() == [[1, 3], [7, 9]]
    assert out[0, 2].tolist() == [[10, 12], [16, 18]]


def test_public_weights_reach_their_accuracy(shared_data):
    reader = importlib.util.spec_from_file_location(
        "read_cifar10", shared_data / "cifar10" / "read_cifar10.py"
    )
    read_cifar10 = importlib.util.module_from_spec(reader)
    reader.loader.exec_module(read_cifar10)
    images, labels = read_cifar10.load_part(shared_data / "cifar10" / "test.npz")
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    x = (torch.tensor(images[:500]).permute(0, 3, 1, 2) / 255 - mean) / std
    model = build_model(
        "resnet20",
        num_classes=10,
        input_shape=(3, 32, 32),
        weights=shared_data / "weights" / "resnet20_cifar10.safetensors",
    ).eval()
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == torch.tensor(labels[:500])).double().mean().item()
    assert accuracy > 0.88  # 91.73 % on all 10 000


@pytest.mark.parametrize("depth", [32, 44, 56])
def test_public_weights_fit(shared_data, depth):
    path = shared_data / "weights" / f"resnet{depth}_cifar10.safetensors"
    build_model(f"resnet{depth}", num_classes=10, input_shape=(3, 32, 32), weights=path)
