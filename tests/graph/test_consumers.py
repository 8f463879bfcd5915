"""How many channels of a reader a unit owns: halves, sums and flattened maps together."""

import pytest
import torch
from torch import Tensor, nn

from prunus.graph import find_groups
from prunus.surgery import unsound_groups
from tests.graph.test_groups import members, reasons


class C2f(nn.Module):
    """YOLOv8's block: both halves, and the sum after each bottleneck, are read together."""

    def __init__(self, bottlenecks: int, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.cv1 = nn.Conv2d(6, 8, 1)
        self.down = nn.ModuleList(nn.Conv2d(4, 3, 3, padding=1) for _ in range(bottlenecks))
        self.up = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(bottlenecks))
        self.cv2 = nn.Conv2d(4 * (2 + bottlenecks), 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).relu().chunk(2, 1))
        for down, up in zip(self.down, self.up, strict=True):
            y = up(down(parts[-1]).relu()).relu()
            parts.append(parts[-1] + y if self.shortcut else y)
        return self.cv2(torch.cat(parts, 1))


def network(block: nn.Module, *last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    last = last or (nn.ReLU(), nn.Conv2d(5, 3, 1))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), block, *last).eval()


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("bottlenecks", [1, 2, 3])
def test_a_unit_owns_two_channels_of_its_maker_and_more_of_its_reader(
    bottlenecks: int, shortcut: bool
) -> None:
    model = network(C2f(bottlenecks, shortcut))
    x = torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    group = groups["2.cv1"]
    assert group.units == 4
    assert group.producers[0].index.shape == (4, 2)
    read = next(m for m in group.consumers if m.module == "2.cv2")
    assert read.index.shape == (4, 2 + bottlenecks if shortcut else 2)
    assert list(reasons(groups)) == ["4"]
    assert unsound_groups(groups, x) == {}


def test_each_position_of_a_flattened_concatenation_belongs_to_one_channel() -> None:
    block = C2f(1)
    block.cv2 = nn.AdaptiveAvgPool2d(2)
    model = network(block, nn.Flatten(), nn.Linear(12 * 4, 5), nn.ReLU(), nn.Linear(5, 3))
    groups = find_groups(model, torch.zeros(1, 3, 8, 8), feature_limit=12)
    assert groups["2.cv1"].positions(groups["2.cv1"].consumers[-1]) == 4
    features = groups.consumers["4"].positions
    assert features.shape == (12, 4)
    assert sorted(map(tuple, features)) == [tuple(range(4 * c, 4 * c + 4)) for c in range(12)]
    assert members(groups)["2.cv1"].endswith("4.in")
    assert unsound_groups(groups, torch.randn(2, 3, 8, 8)) == {}
