"""Classes that count alike, against samples weighed one by one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError
from prunus.graph import find_groups
from prunus.statistics import Scatter, collect
from tests.graph.nets import CLASSES, batches, build, images
from tests.statistics.oracles import (
    Loader,
    assert_close,
    assert_equal,
    batches64,
    drawn,
    inputs_of,
    ready,
    scatter_of,
)

SAMPLINGS = ["pixel", "patch", "pool:2", "flatten", "flatten:2"]


def balanced_oracle(model: nn.Module, loader: Loader, name: str, sampling: str) -> Scatter:
    """Weigh each sample of class l by N/(L·N_l), N_l images of L classes that occur."""
    every = torch.cat([y for _, y in loader])
    present = len(every.unique())
    rows, labels = drawn(model, loader, name, sampling)
    weights = [len(every) / present / int((every == label).sum()) for label in labels]
    cells = rows.shape[1] // inputs_of(model, loader[:1], name)[0].shape[1]
    if isinstance(model.get_submodule(name), nn.Linear):
        cells = 1
    return scatter_of(
        rows, labels, CLASSES, torch.tensor(weights, dtype=torch.float64), cells=cells
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("net", ["plain", "token"])
def test_balanced_classes(net: str, sampling: str) -> None:
    model, groups = ready(net)
    loader = [(x, y.clamp(max=2) % 3) for x, y in batches64(2, 7)]
    loader[0][1][:3] = 2  # unbalanced, and class 3 is absent
    kwargs = {"sampling": sampling, "balance": True}
    statistics = collect(model, loader, groups, **kwargs)
    for name, scatter in statistics.items():
        assert_close(scatter, balanced_oracle(model, loader, name, sampling))
        total = scatter.teacher_total
        torch.testing.assert_close(total[:3], total[:1].expand(3))
        assert total[3] == 0
    coarse = [(x, torch.stack([y, y // 2], 1)) for x, y in loader]
    again = collect(model, coarse, groups, **kwargs)
    for name in again:
        assert_equal(again[name], statistics[name])


def test_balance_needs_labels_that_can_be_read_twice() -> None:
    model, groups = ready("mlp")
    loader = batches64(2, 4)
    with pytest.raises(DataError, match="balance=True needs class labels"):
        collect(model, [x for x, _ in loader], groups, "logits", balance=True)
    with pytest.raises(DataError, match="balance=True needs class labels"):
        collect(model, [(x, y.double()) for x, y in loader], groups, "targets", balance=True)
    again = collect(model, iter(loader), groups, balance=True)  # kept, and read twice
    assert_equal(again["fc1"], collect(model, loader, groups, balance=True)["fc1"])
    with pytest.raises(DataError, match="labels run from -1"):
        collect(model, [(x, y - y - 1) for x, y in loader], groups, balance=True)
    with pytest.raises(ConfigError, match="'dual' sums whole batches"):
        collect(model, loader, groups, sampling="dual", balance=True)


class Shuffled:
    """Other batches each time."""

    def __init__(self, *readings: Loader) -> None:
        self.readings = list(readings)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.readings.pop(0))


@pytest.mark.parametrize("first", [[0, 1], [0, 3]])
def test_balance_with_a_class_that_was_not_counted(first: list[int]) -> None:
    model, groups = ready("mlp")
    x = images(2).double()
    loader = Shuffled([(x, torch.tensor(first))], [(x, torch.tensor([0, 2]))])
    with pytest.raises(DataError, match="a class occurs that did not when the labels were read"):
        collect(model, loader, groups, balance=True)


def test_a_nearly_constant_feature_keeps_its_variance() -> None:
    # 5 ± 1e-4 in float32, weighed: only sums about the batch mean can tell.
    model = build("plain")
    model.bn1 = nn.Identity()
    with torch.no_grad():
        model.conv1.bias = nn.Parameter(torch.full((8,), 5.0))
        model.conv1.weight *= 1e-4
    groups = find_groups(model, images(1))
    loader = batches(3, 8)
    scatter = collect(model, loader, groups, sampling="pixel", balance=True)["conv2"]
    expected = balanced_oracle(model, loader, "conv2", "pixel")
    assert_close(scatter, expected, rtol=1e-6)
    torch.testing.assert_close(scatter.scale, expected.scale, rtol=1e-3, atol=0)
