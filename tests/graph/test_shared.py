"""Layers that share parameters are one set of units, and a shared parameter counts once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import flatten_tensors
from prunus.evaluation import count_bytes, count_params
from prunus.graph import Groups, find_groups
from prunus.plan import CostTracker
from prunus.surgery import apply_, mask_, undo_
from tests.conftest import random_plan
from tests.graph.test_groups import members, reasons

OUTPUTS = "its outputs are the network's outputs"


class Language(nn.Module):
    """Tokens → stream → one MLP → the scores of tokens, by the embedding's weight."""

    def __init__(self, *, head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(6, 20)
        self.embed = nn.Embedding(20, 6)
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)
        if not head_first:
            self.head = nn.Linear(6, 20)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.down(F.gelu(self.up(x))))


class Levels(nn.Module):
    """One head for two levels of a pyramid, with norms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.a, self.b = nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 3)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias
        self.first, self.second = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.left(F.relu(self.first(self.a(F.relu(self.low(x))))))
        return low, self.right(F.relu(self.second(self.b(F.relu(self.high(x))))))


class Mirror(nn.Module):
    """A decoder whose transposed convolutions have the encoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.d2, self.d1 = nn.ConvTranspose2d(6, 8, 3), nn.ConvTranspose2d(8, 3, 3)
        self.d1.weight, self.d2.weight = self.e1.weight, self.e2.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.d1(F.relu(self.d2(F.relu(self.e2(F.relu(self.e1(x)))))))


class Called(nn.Module):
    """The same with functions, so that the decoder is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.e2(F.relu(self.e1(x))))
        x = F.relu(F.conv_transpose2d(x, self.e2.weight))
        return F.conv_transpose2d(x, self.e1.weight)


class Norms(nn.Module):
    """One scale and one running mean for two norms, one bias for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)
        self.b.bias = self.a.bias
        self.n, self.m = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.m.weight = self.n.weight
        self.m.register_buffer("running_mean", self.n.running_mean)
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(F.relu(self.n(self.a(x)))), self.other(F.relu(self.m(self.b(x))))


TOKENS, IMAGE, ROW = torch.arange(6)[None], torch.zeros(1, 3, 9, 9), torch.zeros(1, 5)


@pytest.mark.parametrize(
    ("model", "example", "expected"),
    [
        (
            Language(),
            TOKENS,
            {"up": "up.out down.in", "down": "up.in down.out head.in embed.weight:1.out"},
        ),
        (
            Language(head_first=True),
            TOKENS,
            {"up": "up.out down.in", "down": "head.in up.in down.out embed.weight:1.out"},
        ),
        (
            Levels(),
            IMAGE,
            {
                "low": "low.out high.out a.in b.in",
                "a": "a.out b.out first.out second.out left.in right.in",
            },
        ),
        (Mirror(), IMAGE, {"e1": "e1.out e2.in d2.out d1.in", "e2": "e2.out d2.in"}),
        (Called(), IMAGE, {"e1": "e1.out e2.in", "e2": "e2.out"}),
        (Norms(), ROW, {"a": "a.out b.out n.out m.out head.in other.in"}),
    ],
)
def test_owners_of_a_parameter_are_one_set_of_units(
    model: nn.Module, example: Tensor, expected: dict[str, str]
) -> None:
    groups = find_groups(model.eval(), example)
    assert members(groups) == expected
    _costs_are_exact(groups)


def _costs_are_exact(groups: Groups) -> None:
    """Compare the tracker's totals with the parameters and bytes that are left, by hand."""
    tracker = CostTracker(groups)
    gone: dict[tuple[int, int], set[int]] = {}
    for group in groups.values():
        tracker.remove(group, [0])
        for member in group.members:
            name, axis = member.module, member.axis
            channels = set(member.index[0].tolist())
            for tensor, dim in _axes(groups.model, name, axis):
                gone.setdefault((id(tensor), dim), set()).update(channels)
    model = groups.model
    left = {"params": 0, "bytes": 0}
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        size = 1
        for dim, width in enumerate(tensor.shape):
            size *= width - len(gone.get((id(tensor), dim), ()))
        left["params"] += size * isinstance(tensor, nn.Parameter)
        left["bytes"] += size * tensor.element_size()
    assert {key: tracker.totals[key] for key in left} == left


def _axes(model: nn.Module, name: str, axis: str) -> list[tuple[Tensor, int]]:
    path, colon, dim = name.rpartition(":")
    if colon:
        owner, _, key = path.rpartition(".")
        return [(getattr(model.get_submodule(owner), key), int(dim))]
    module = model.get_submodule(name)
    turned = isinstance(module, nn.ConvTranspose2d)
    if axis == "in":
        return [(module.get_parameter("weight"), int(not turned))]
    found = [(t, 0) for n, t in module.state_dict(keep_vars=True).items() if t.dim() == 1]
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        found.append((module.get_parameter("weight"), int(turned)))
    return found


@pytest.mark.parametrize(
    ("model", "example"),
    [(Language(), TOKENS), (Levels(), IMAGE), (Mirror(), IMAGE), (Norms(), ROW)],
)
def test_a_cut_and_its_undoing_leave_one_parameter(model: nn.Module, example: Tensor) -> None:
    model.eval()
    groups = find_groups(model, example)
    plan = random_plan(groups, 1)
    masked, before = mask_(copy.deepcopy(model), plan), copy.deepcopy(model)
    names = [name for name, _ in model.named_parameters()]
    tracker = CostTracker(groups)
    for name, edit in plan.groups.items():
        tracker.remove(groups[name], edit.removed)
    receipt = apply_(model, plan)
    assert [name for name, _ in model.named_parameters()] == names
    assert tracker.totals["params"] == count_params(model) < count_params(before)
    assert tracker.totals["bytes"] == count_bytes(model)
    for one, other in zip(*(flatten_tensors(m(example)) for m in (masked, model)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    undo_(model, receipt)
    assert [name for name, _ in model.named_parameters()] == names
    for one, other in zip(before.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tied_head_is_the_output() -> None:
    assert reasons(find_groups(Language(), TOKENS)) == {"head": OUTPUTS}


def test_a_tied_layer_within_the_network_keeps_its_tokens() -> None:
    class Soft(Language):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(20, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.last(super().forward(tokens).relu())

    said = reasons(find_groups(Soft(), TOKENS))
    assert said["head"] == "its outputs are the tokens of an embedding"


def test_the_weight_of_a_tied_layer_is_not_refitted() -> None:
    groups = find_groups(Language(), TOKENS)
    assert groups.unfit("head") == "it shares its parameters with 'embed'"
    assert groups.unfit("down") == ""


def test_a_shared_linear_layer_selects_nothing() -> None:
    groups = find_groups(Norms(), ROW)
    assert [group.name for group in groups.values() if group.selects] == []
