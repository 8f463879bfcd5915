"""`prunus.find_groups` tries the cut: what it returns can be cut."""

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus import graph
from prunus.models import build_model


class Gated(nn.Module):
    """The width of the first layer is written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)
        self.gate = nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.a(x)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3)))).view(-1, 8, 1, 1)
        made: Tensor = self.c(self.b(x).relu())
        return made


def test_what_fails_when_it_is_cut_is_left_out_with_the_reason() -> None:
    torch.manual_seed(0)
    model, x = Gated(), torch.randn(1, 3, 12, 12)
    assert set(graph.find_groups(model, x)) == set(prunus.find_groups(model, x, verify=False))
    groups = prunus.find_groups(model, x)
    assert list(groups) == ["b"]
    reasons = {one.module: one.reason for one in groups.unprunable}
    assert "fails when it is cut (at tests/surgery/test_find.py:" in reasons["a"]
    plan = prunus.make_plan(groups, prunus.score(groups, None, "l1"), "params=80%")
    prunus.apply_(model, plan)
    assert model(x).shape == (1, 4, 6, 6)


def test_it_costs_five_forward_passes_at_most() -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32)).eval()
    passes = []

    def count(module: nn.Module, *_: object) -> None:
        passes.extend([module] * (type(module) is type(model)))  # on any copy

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        assert prunus.find_groups(model, torch.randn(1, 3, 32, 32))
    finally:
        handle.remove()
    assert 4 <= len(passes) <= 5


def test_a_trial_is_made_again_only_if_the_network_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4)
    trials = []
    module = "prunus.surgery.find.unsound_groups"
    monkeypatch.setattr(module, lambda *args: trials.append(args) or {})
    prunus.find_groups(model, x)
    prunus.find_groups(model, x)
    assert len(trials) == 1
    with torch.no_grad():
        model[0].weight.mul_(2)
    prunus.find_groups(model, x)
    assert len(trials) == 2
    prunus.find_groups(model, x, verify=False)
    assert len(trials) == 2


class Noisy(nn.Module):
    """Noise of a fixed width, or of the width of what it is added to."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu())
        noise = torch.randn(len(x), 3) if self.fixed else torch.randn_like(h)
        made: Tensor = self.c(h) + noise if self.fixed else self.c(h + noise)
        return made


def test_noise_that_does_not_depend_on_the_cut_is_the_same_in_both() -> None:
    groups = graph.find_groups(Noisy(fixed=True), torch.zeros(2, 4))
    assert prunus.unsound_groups(groups, torch.randn(2, 4)) == {}


def test_a_random_network_is_not_blamed_on_its_channels() -> None:
    groups = graph.find_groups(Noisy(fixed=False), torch.zeros(2, 4))
    reasons = prunus.unsound_groups(groups, torch.randn(2, 4))
    assert set(reasons) == set(groups)
    assert {reason.partition(",")[0] for reason in reasons.values()} == {
        "its output is random in evaluation"
    }
