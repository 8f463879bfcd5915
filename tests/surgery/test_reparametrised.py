"""Cutting layers whose weight other tensors compute."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.modules import private_copy
from prunus.plan import make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, mask_, undo_, unsound_groups
from tests.modules.test_reparametrised import KINDS, build, old

X = torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(1))
LOADER = [(X, torch.arange(16) % 4)] * 2


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@old
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_steps_leave_it_alone_and_a_cut_can_be_undone(name: str, training: bool) -> None:
    model = build(name).train(training)
    model(X)
    before = _state(model)
    groups = find_groups(model, X[:1])
    assert list(groups) == ["5.features", "0", "2"]
    assert groups.baked == dict.fromkeys("025", KINDS[name][0])
    assert unsound_groups(groups, X[:1]) == {}
    statistics = collect(model, LOADER, groups, gradients=True)
    plan = make_plan(groups, score(groups, statistics), "params=70%")
    assert _same(before, _state(model))
    masked = mask_(private_copy(model.eval()), plan)
    model.train(training)
    for kind in ("none", "pointwise", "joint", "merge"):
        loader = LOADER if kind == "joint" else None
        receipt = apply_(model, plan, statistics, loader=loader, compensate=kind, groups=groups)
        assert receipt.baked == {n: k for n, k in groups.baked.items() if n in plan.modules}
        assert "part of the weight" in repr(receipt)
        if kind == "none":
            assert torch.allclose(model.eval()(X), masked.eval()(X), atol=1e-5)
            model.train(training)
        undo_(model, receipt)
        assert _same(before, _state(model))


def test_a_cut_that_fails_brings_the_weight_back() -> None:
    model = build("new weight norm").eval()
    before = _state(model)
    groups = find_groups(model, X[:1])
    plan = make_plan(groups, score(groups, None, "random"), "params=70%")
    with pytest.raises(ValueError, match="gone"):
        apply_(model, plan, loader=Gone(), groups=groups, compensate="joint")
    assert _same(before, _state(model))


class Gone:
    def __iter__(self) -> "Gone":
        raise ValueError("gone")


def test_layers_that_the_plan_does_not_cut_keep_theirs() -> None:
    model = build("new spectral norm").eval()
    groups = find_groups(model, X[:1])
    plan = make_plan(groups, score(groups, None, "random"), "params=95%")
    cut = set(plan.modules)
    apply_(model, plan)
    left = [n for n in "025" if hasattr(model.get_submodule(n), "parametrizations")]
    assert set(left) == set("025") - cut != set("025")


class Normed(nn.Module):
    """An embedding with spectral norm, and a head with the weight that it is computed from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head.weight = self.embed.weight
        parametrizations.spectral_norm(self.embed)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.down(self.up(x).relu()))


def test_a_weight_that_is_also_what_another_is_computed_from() -> None:
    model, tokens = Normed().eval(), torch.arange(10)[None]
    groups = find_groups(model, tokens)
    assert list(groups) == ["up", "down"]
    plan = make_plan(groups, score(groups, None, "random"), "params=70%")
    masked, before = mask_(private_copy(model), plan), _state(model)
    receipt = apply_(model, plan)
    assert torch.allclose(model(tokens), masked(tokens), atol=1e-5)
    undo_(model, receipt)
    assert _same(before, _state(model))
    assert model.head.weight is model.embed.parametrizations.weight.original  # type: ignore[union-attr]
