"""The sum of distances, pair by pair."""

import torch

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.statistics import Statistics
from tests.graph.nets import build, images


def test_distances_by_hand() -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    values = score(groups, Statistics([{}], groups, 0), "geometric_median")["stem"].values
    both = [conv.weight.detach().double() for conv in (model.stem, model.conv2)]
    for i in range(8):
        by_hand = sum(
            float((filters[i] - filters[j]).square().sum().sqrt())
            for filters in both
            for j in range(8)
        )
        torch.testing.assert_close(float(values[i]), by_hand)


def test_a_filter_in_the_middle_goes_first() -> None:
    model = build("plain")
    with torch.no_grad():
        others = [0, 1, 2, 4, 5, 6, 7]
        model.conv1.weight[3] = model.conv1.weight[others].mean(0)
    groups = find_groups(model, images(1))
    scores = score(groups, Statistics([{}], groups, 0), "geometric_median")["conv1"]
    assert int(scores.order[0]) == 3


def test_copies_are_exactly_as_far_from_the_rest() -> None:
    model = build("mlp")
    with torch.no_grad():
        model.fc2.weight[:] = model.fc2.weight[0]
    groups = find_groups(model, images(1))
    values = score(groups, Statistics([{}], groups, 0), "geometric_median")["fc2"].values
    assert torch.equal(values, torch.zeros(8, dtype=torch.float64))
