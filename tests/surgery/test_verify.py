"""Groups that tracing gets wrong are found by cutting them."""

import pytest
import torch
from torch import nn

from prunus.graph import find_groups
from prunus.models import build_model
from prunus.surgery import unsound_groups
from tests.conftest import randomise_norms_


class Counted(nn.Module):
    """Scaled by the number of channels, which no label shows."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3)
        self.b = nn.Conv2d(6, 6, 3)
        self.c = nn.Conv2d(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(self.scaled(self.a(x)))))

    @staticmethod
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x / x.shape[1]


class FixedView(nn.Module):
    """A size written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.b = nn.Linear(6 * 8 * 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)).view(-1, 384))


def test_a_count_of_channels_is_found_and_the_rest_kept() -> None:
    torch.manual_seed(0)
    groups = find_groups(Counted(), torch.zeros(1, 1, 12, 12))
    reasons = unsound_groups(groups, torch.randn(2, 1, 12, 12))
    assert set(reasons) == {"a"}
    assert "mixes or counts its channels" in reasons["a"]
    left = groups.without(reasons)
    assert [g.name for g in left.values()] == ["b"]
    assert "a" in {u.module for u in left.unprunable}


def test_a_size_in_the_forward_pass_is_found() -> None:
    torch.manual_seed(0)
    groups = find_groups(FixedView(), torch.zeros(1, 1, 8, 8))
    reasons = unsound_groups(groups, torch.randn(2, 1, 8, 8))
    assert set(reasons) == {"a"}
    assert "the network fails when it is cut" in reasons["a"]


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("lenet300", (1, 28, 28)),
        ("lenet5", (1, 28, 28)),
        ("resnet20", (3, 32, 32)),
        ("torchvision:mobilenet_v2", (3, 32, 32)),
    ],
)
def test_sound_networks_pass(spec: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = randomise_norms_(build_model(spec, num_classes=10, input_shape=shape))
    groups = find_groups(model, torch.zeros(1, *shape))
    assert unsound_groups(groups, torch.randn(2, *shape)) == {}


class Together(nn.Module):
    """Two groups that may each shrink, but not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.c = nn.Conv2d(8, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        y = self.b(x).relu()
        if x.shape[1] < 8 and y.shape[1] < 8:
            raise ValueError("too narrow")
        return self.c(y)


def test_groups_that_fail_only_together_are_found() -> None:
    torch.manual_seed(0)
    groups = find_groups(Together(), torch.zeros(1, 1, 9, 9))
    reasons = unsound_groups(groups, torch.randn(2, 1, 9, 9))
    assert list(reasons) == ["b"]
    assert "too narrow" in reasons["b"]
    assert reasons["b"].endswith("together with other groups")
