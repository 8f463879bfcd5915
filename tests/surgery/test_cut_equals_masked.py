"""The invariant of the house: the cut network equals the masked network."""

import copy

import pytest
import torch

from prunus.graph import find_groups
from prunus.models import build_model
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan, randomise_norms_

NETWORKS = {
    "lenet300": (1, 28, 28),
    "lenet5": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "torchvision:resnet18": (3, 64, 64),
    "torchvision:vgg11_bn": (3, 64, 64),
    "torchvision:mobilenet_v2": (3, 64, 64),
    "torchvision:googlenet": (3, 64, 64),
    "torchvision:densenet121": (3, 64, 64),
    "torchvision:resnext50_32x4d": (3, 64, 64),
}


@pytest.mark.parametrize("spec", NETWORKS)
def test_cut_equals_masked(spec: str) -> None:
    torch.manual_seed(0)
    shape = NETWORKS[spec]
    model = randomise_norms_(build_model(spec, num_classes=10, input_shape=shape)).eval()
    groups = find_groups(model, torch.randn(1, *shape))
    x = torch.randn(3, *shape)
    for seed in range(2):
        plan = random_plan(groups, seed)
        with torch.no_grad():
            masked = mask_(copy.deepcopy(model), plan)(x)
            cut_model = replay_(copy.deepcopy(model), plan)
            cut = cut_model(x)
            dense = model(x)
        scale = max(1.0, float(masked.abs().max()))
        assert float((masked - dense).abs().max()) > 1e-6 * scale  # something was removed
        torch.testing.assert_close(cut / scale, masked / scale, atol=1e-5, rtol=0)
