"""Weights by hand: the scale of a BatchNorm, and filters of transposed grouped convolutions."""

import pytest
import torch
from torch import nn

from prunus.criteria import score
from prunus.criteria.baselines.weights import member_weight
from prunus.graph import find_groups
from prunus.statistics import Statistics
from tests.graph.nets import build, images


def test_bn_scale_by_hand() -> None:
    model = build("plain")
    with torch.no_grad():
        model.bn1.weight[3] = -7.0
    groups = find_groups(model, images(1))
    values = score(groups, Statistics([{}], groups, 0), "bn_scale")["conv1"].values
    torch.testing.assert_close(values, model.bn1.weight.detach().abs().double())
    assert int(values.argmax()) == 3


def test_coupled_batchnorms_count_by_their_mean() -> None:
    model = build("concat")  # `norm` normalises a, b and mix for `last`
    groups = find_groups(model, images(1))
    scores = score(groups, Statistics([{}], groups, 0), "bn_scale")
    torch.testing.assert_close(scores["b"].values, model.norm.weight[6:10].detach().abs().double())


def test_a_group_without_batchnorm_is_skipped_with_a_reason() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    scores = score(groups, Statistics([{}], groups, 0), "bn_scale")
    assert set(scores.groups) == {"conv1"}
    assert scores.skipped == {"conv2": "no BatchNorm with a scale normalises its units"}


@pytest.mark.parametrize("conv_groups", [1, 2])
def test_filters_of_a_transposed_convolution(conv_groups: int) -> None:
    """A filter is what one output channel's impulse responses are made of."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=conv_groups)
            self.last = nn.Conv2d(6, 4, 1)
            self.head = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.last(self.up(self.first(x)).relu()).relu()
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Net().eval()
    groups = find_groups(model, images(1))
    member = next(m for m in groups["up"].producers if m.module == "up")
    weight = member_weight(groups, member)
    assert weight is not None
    impulses = torch.eye(4).view(4, 4, 1, 1)
    with torch.no_grad():
        responses = nn.functional.conv_transpose2d(
            impulses, model.up.weight, stride=2, groups=conv_groups
        )  # (4, 6, 2, 2)
    energy = responses.double().square().sum((0, 2, 3))
    owned = torch.from_numpy(member.index)
    torch.testing.assert_close(weight.square().sum(1), energy[owned].sum(1))
