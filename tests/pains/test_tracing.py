"""Pains 2, 3, 4 and 7: frozen parameters, what cannot be traced, fixed reshapes, raw parameters."""

import copy
import inspect

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.core.errors import NothingToPruneError
from prunus.plan import plan_units
from prunus.surgery import unsound_groups
from tests.graph.nets import batches, build, images
from tests.pains.rival import check_cuts, torch_pruning_, widths

EXAMPLE = images(1)


# 2: frozen parameters ----------------------------------------------------------------------


def frozen() -> nn.Module:
    return build("plain").requires_grad_(False)


def test_2_torch_pruning_leaves_a_frozen_network_whole_and_says_nothing() -> None:
    model = frozen()
    before = widths(model)
    torch_pruning_(model, EXAMPLE, ignored_layers=[model.head])  # would raise if it said something
    assert widths(model) == before


def test_2_torch_pruning_leaves_frozen_layers_whole_and_says_nothing() -> None:
    model = build("plain")
    model.conv1.requires_grad_(False)
    torch_pruning_(model, EXAMPLE, ignored_layers=[model.head])
    assert widths(model) == {"conv1": 8, "conv2": 3, "head": 4}


def test_2_frozen_layers_are_cut_and_stay_frozen() -> None:
    model = frozen()
    groups = check_cuts(model, EXAMPLE)
    assert {g.name for g in groups.values()} == {"conv1", "conv2"}
    statistics = prunus.collect(model, batches(), groups)
    plan = prunus.make_plan(groups, prunus.score(groups, statistics), "macs=50%")
    prunus.apply_(model, plan, statistics)
    assert widths(model)["conv1"] < 8
    assert not any(p.requires_grad for p in model.parameters())


def test_2_what_cannot_be_pruned_is_named_with_its_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    groups = prunus.find_groups(model, EXAMPLE)
    with pytest.raises(NothingToPruneError, match="0: its outputs are the network's outputs"):
        groups.require_any()
    with pytest.raises(NothingToPruneError, match="0: its outputs are the network's outputs"):
        prunus.prune(model, batches(), "macs=50%")


# 3: tracing fails --------------------------------------------------------------------------


class Rows(nn.Module):
    """A recurrent layer between convolution and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.rows = nn.LSTM(8, 12, batch_first=True)
        self.hidden = nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(F.relu(self.hidden(self.rows(x)[0][:, -1])))


def test_3_torch_pruning_breaks_on_shufflenet_and_on_a_recurrent_layer() -> None:
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    with pytest.raises(ZeroDivisionError):
        torch_pruning_(model, torch.randn(1, 3, 32, 32), ignored_layers=[model.fc])
    model = Rows()
    with pytest.raises(IndexError, match="out of range"):
        torch_pruning_(model, EXAMPLE, ignored_layers=[model.head])


def test_3_shufflenet_is_cut_right() -> None:
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    groups = check_cuts(model, torch.randn(2, 3, 32, 32), plans=1)
    assert len(groups) > 10


def test_3_what_a_recurrent_layer_reads_is_cut_and_its_own_width_stays() -> None:
    torch.manual_seed(0)
    model = Rows().eval()
    found = prunus.diagnose(model, EXAMPLE)
    assert found.status == "healthy"
    assert {g.name for g in found.groups} == {"conv", "hidden"}
    assert {g.name for g in check_cuts(model, EXAMPLE).values()} == {"conv", "hidden"}


# 4: hard-coded reshapes --------------------------------------------------------------------


class FixedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.hidden = nn.Linear(600, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x.view(-1, 600)  # six channels of 10×10
        return self.head(F.relu(self.hidden(x)))


def test_4_torch_pruning_cuts_and_the_next_forward_pass_fails() -> None:
    model = torch_pruning_(FixedView(), EXAMPLE, ignored_layers=[])
    assert model.conv.out_channels == 3
    with pytest.raises(RuntimeError, match=r"shape '\[-1, 600\]' is invalid"):
        model(EXAMPLE)


def test_4_the_line_is_named_before_the_cut_and_its_producer_kept() -> None:
    torch.manual_seed(0)
    model = FixedView().eval()
    before = copy.deepcopy(model.state_dict())
    found = prunus.diagnose(model, EXAMPLE)
    lines, first = inspect.getsourcelines(FixedView)
    line = first + next(i for i, text in enumerate(lines) if ".view(" in text)
    reason = {f.module: f.reason for f in found.findings if f.fault}["conv"]
    assert f"test_tracing.py:{line}" in reason.replace(", line ", ":")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    groups = prunus.find_groups(model, EXAMPLE)
    sound = groups.without(unsound_groups(groups, EXAMPLE))
    assert "conv" not in {g.name for g in sound.values()}
    plan = plan_units(sound, {"hidden": [0, 2]})
    prunus.apply_(model, plan)
    assert model(EXAMPLE).shape == (1, 4)
    assert widths(model) == {"conv": 6, "hidden": 3, "head": 4}


def test_4_a_run_protects_it_by_itself() -> None:
    torch.manual_seed(0)
    config = prunus.PruneConfig(
        iterations=1, finetune=prunus.TrainConfig(epochs=0), final=prunus.TrainConfig(epochs=0)
    )
    small, report = prunus.prune(FixedView(), batches(4), "params=60%", config=config)
    assert widths(small)["conv"] == 6
    assert small(EXAMPLE).shape == (1, 4)
    graph = report.record.find("graph")
    assert graph is not None
    assert "conv" in {u["module"] for u in graph["unprunable"]}


# 7: raw parameters -------------------------------------------------------------------------


class Raw(nn.Module):
    """conv → something with a parameter of the network's own → conv."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.raw = nn.Parameter(torch.randn(*shape))
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.join(F.relu(self.conv1(x)))
        return self.head(F.relu(self.conv2(x)).mean((2, 3)))

    def join(self, x: Tensor) -> Tensor:
        return x + self.raw


class Transposed(Raw):
    def join(self, x: Tensor) -> Tensor:
        return (x.flatten(2).transpose(1, 2) + self.raw.T).transpose(1, 2).view_as(x)


class Mixing(nn.Module):
    """A matrix of the network's own in place of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.raw = nn.Parameter(torch.randn(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.relu(self.conv1(x)).mean((2, 3)) @ self.raw))


#: name → (network, axis of the raw parameter that the channels lie on).
RAW = {
    "positions of a map": (lambda: Raw(1, 8, 10, 10), 1),
    "positions, channels first": (lambda: Transposed(8, 100), 0),
    "a matrix": (Mixing, 0),
}


@pytest.mark.parametrize("name", RAW)
def test_7_torch_pruning_cuts_the_last_axis_or_fails(name: str) -> None:
    """It takes the last axis that is not 1, right for (1, T, C) and (1, C, 1, 1) alone."""
    torch.manual_seed(0)
    model = RAW[name][0]()
    with pytest.raises((RuntimeError, IndexError)):
        torch_pruning_(model, EXAMPLE, ignored_layers=[model.head])(EXAMPLE)
    if name == "positions of a map":
        assert model.raw.shape == (1, 8, 10, 6)


@pytest.mark.parametrize("name", [*RAW, "scale of channels"])
def test_7_the_axis_is_found_and_tried(name: str) -> None:
    torch.manual_seed(0)
    make, axis = RAW.get(name, (lambda: Raw(1, 8, 1, 1), 1))
    model = make().eval()
    groups = check_cuts(model, EXAMPLE)
    places = {m.module for m in groups["conv1"].members}
    assert ("raw.T" if name == "a matrix" else f"raw:{axis}") in places
    assert unsound_groups(groups, EXAMPLE) == {}
    prunus.apply_(model, plan_units(groups, {"conv1": [1, 5, 6]}))
    assert model.raw.shape[axis] == 5
    model(images(2)).sum().backward()
    assert model.raw.grad.shape == model.raw.shape
