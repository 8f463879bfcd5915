"""A layer whose channels several others make is cut in parts."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import find_groups
from prunus.surgery import apply_, undo_, unsound_groups
from tests.conftest import random_plan
from tests.graph.test_groups import members, reasons


class Gated(nn.Module):
    """Two branches side by side, scaled by a gate that reads both."""

    def __init__(self, gate_first: bool = False) -> None:
        super().__init__()
        names = ["a", "b", "squeeze", "excite"]
        layers = {
            "a": nn.Conv2d(3, 4, 3, padding=1),
            "b": nn.Conv2d(3, 6, 1),
            "squeeze": nn.Linear(10, 3),
            "excite": nn.Linear(3, 10),
        }
        for name in sorted(names, reverse=gate_first):
            self.add_module(name, layers[name])
        self.head = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1).relu()
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.head(x * gate[:, :, None, None])


class Summed(Gated):
    """A third branch as wide as both is added."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1) + self.c(x)
        return self.head(y.relu()) + self.squeeze(y.mean((2, 3))).mean()


class Padded(nn.Module):
    """A shortcut is padded with channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.head(self.b(x) + F.pad(x, (0, 0, 0, 0, 1, 1)))


@pytest.mark.parametrize("gate_first", [False, True])
def test_a_gate_is_cut_with_each_branch_that_it_scales(gate_first: bool) -> None:
    torch.manual_seed(0)
    model, x = Gated(gate_first).eval(), torch.randn(2, 3, 6, 6)
    groups = find_groups(model, x, inputs=False)
    found = {name: set(text.split()) for name, text in members(groups).items()}
    assert found == {
        "a": {"a.out", "excite.out", "squeeze.in", "head.in"},
        "b": {"b.out", "excite.out", "squeeze.in", "head.in"},
        "squeeze": {"squeeze.out", "excite.in"},
    }
    parts = [
        m.index.flatten().tolist()
        for name in "ab"
        for m in groups[name].members
        if m.module == "excite"
    ]
    assert parts == [list(range(4)), list(range(4, 10))]
    assert unsound_groups(groups, x) == {}
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    receipt = apply_(model, random_plan(groups, 0), compensate="none")
    left = model.a.out_channels + model.b.out_channels
    assert model.excite.out_features == model.squeeze.in_features == left < 10
    undo_(model, receipt)
    assert all(torch.equal(dense[n], t) for n, t in model.state_dict().items())


def test_a_layer_added_to_a_concatenation_is_cut_in_parts() -> None:
    torch.manual_seed(0)
    model, x = Summed().eval(), torch.randn(2, 3, 6, 6)
    groups = find_groups(model, x, inputs=False)
    assert {name: groups[name].units for name in ("a", "b")} == {"a": 4, "b": 6}
    assert "c.out" in members(groups)["a"] and "c.out" in members(groups)["b"]
    assert unsound_groups(groups, x) == {}


def test_a_padded_shortcut_stays() -> None:
    groups = find_groups(Padded().eval(), torch.randn(2, 3, 6, 6))
    assert not groups
    assert "only 4 of the 6 channels of b are coupled to it" in reasons(groups)["a"]
