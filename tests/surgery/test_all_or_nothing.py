"""Whatever raises, and wherever, networks and optimisers are afterwards what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import prunus
from prunus.core import DataError, PlanError, WeightsError
from prunus.models import load_weights_
from prunus.modules import Empty, SelectLinear, bake_, private_copy, unbake_
from prunus.plan import Edit, Plan, plan_units
from prunus.statistics import collect
from prunus.surgery import (
    apply_,
    cut_state_,
    find_groups,
    mask_,
    reestimate_batchnorm_,
    replay_,
    tensors_of,
    undo_,
)
from tests.borders.untouched import state
from tests.conftest import random_plan
from tests.graph import branching, nets
from tests.surgery.test_kept_objects import Language

#: At how many places of an operation each sweep raises, evenly spread over its ATen calls.
PLACES = 4


class Attending(nn.Module):
    """A packed attention, a layer norm, positions that are a parameter, and weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = parametrizations.weight_norm(nn.Linear(8, 12))
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.positions
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        x = x + self.down(self.up(x).relu())
        made: Tensor = self.head(x.mean(1))
        return made


def tokens(count: int) -> Tensor:
    return torch.randn(count, 5, 6, generator=torch.Generator().manual_seed(0))


def words(count: int) -> Tensor:
    return torch.randint(0, 11, (count, 4), generator=torch.Generator().manual_seed(0))


def branches(groups: prunus.Groups) -> Plan:
    gone = next(group for group in groups.values() if group.least == 0)
    return plan_units(groups, {gone.name: range(gone.units)})


#: The network, its inputs, and its plan.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], Any]] = {
    "residual": (lambda: nets.build("residual"), nets.images, None),
    "depthwise": (lambda: nets.build("depthwise"), nets.images, None),
    "selecting": (lambda: nets.build("flatten"), nets.images, None),
    "attention": (Attending, tokens, None),
    "tied": (Language, words, None),
    "branches": (lambda: branching.build("reduction"), nets.images, branches),
}


@cache
def traced(name: str) -> tuple[prunus.Groups, Plan, prunus.Statistics, list[Any]]:
    """Return what is known of a network that is built in the same way each time."""
    make, inputs, choose = CASES[name]
    torch.manual_seed(0)
    model = make()
    loader = [(inputs(8), torch.arange(8) % 4) for _ in range(2)]
    groups = find_groups(model, inputs(1), drop_branches=choose is not None)
    plan = choose(groups) if choose else random_plan(groups, seed=1)
    return groups, plan, collect(model, loader, groups, "logits"), loader


class Case:
    """A network with gradients in mixed modes, as it is met between two steps of training."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model, self.x = CASES[name][0](), CASES[name][1](8)
        groups, self.plan, self.statistics, self.loader = traced(name)
        self.groups = replace(groups, model=self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.model(self.x).square().sum().backward()
        self.optimizer.step()
        self.model.train()
        next(iter(self.model.children())).eval()
        next(self.model.parameters()).requires_grad_(False)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything of the network and its optimiser, with the objects that they are."""
        found = state(self.model, (self.x,))
        tensors = tensors_of(self.model)
        found["places"] = [(n, t.data_ptr(), t.stride()) for n, t in tensors.items()]
        found["gradients"] = [(n, id(t.grad)) for n, t in tensors.items() if t.is_leaf]
        for module in self.model.modules():
            found[f"containers of {id(module)}"] = [(k, id(v)) for k, v in vars(module).items()]
        found["groups"] = [(id(g), [id(p) for p in g["params"]]) for g in optimizer_of(self)]
        found["state"] = [
            (id(p), [(k, id(v)) for k, v in s.items()]) for p, s in self.optimizer.state.items()
        ]
        return found


def optimizer_of(case: Case) -> list[dict[str, Any]]:
    return case.optimizer.param_groups


class Failing(TorchDispatchMode):
    """Counts ATen calls, and raises before one of them."""

    def __init__(self, at: int = -1, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.count, self.at, self.error = 0, at, error

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        if self.count == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))


def applied(**options: Any) -> Callable[[Case], Any]:
    def go(case: Case) -> Any:
        given = dict(options)
        given |= {"loader": case.loader} if given.pop("reads", False) else {}
        given |= {"statistics": case.statistics} if given.pop("knows", False) else {}
        return apply_(case.model, case.plan, groups=case.groups, **given)

    return go


#: What is called, after what has been called before.
VERBS: dict[str, tuple[Callable[[Case], Any] | None, Callable[..., Any]]] = {
    "none, norms": (None, applied(compensate="none", reads=True, undo=False)),
    "pointwise": (None, applied(knows=True, undo=False)),
    "pointwise, undo": (None, applied(knows=True)),
    "merge": (None, applied(compensate="merge", undo=False)),
    "patch": (None, applied(compensate="patch", reads=True, knows=True, undo=False)),
    "replay": (None, lambda case: replay_(case.model, case.plan)),
    "mask": (None, lambda case: mask_(case.model, case.plan)),
    "undo": (applied(knows=True), lambda case, receipt: undo_(case.model, receipt)),
    "undo, trained": (
        applied(knows=True),
        lambda case, receipt: undo_(case.model, receipt, keep_training=True),
    ),
    "norms": (None, lambda case: reestimate_batchnorm_(case.model, case.loader)),
}


#: The network with branches is large: it is there for a convolution that is replaced.
SWEEPS = [
    (name, verb)
    for name in CASES
    for verb in VERBS
    if name != "branches" or verb in ("replay", "mask", "undo", "pointwise, undo")
]


@pytest.mark.parametrize(("name", "verb"), SWEEPS)
def test_an_interruption_anywhere_changes_nothing(name: str, verb: str) -> None:
    first, call = VERBS[verb]
    case = Case(name)
    given = [] if first is None else [first(case)]
    whole = case.model
    for case.model in (private_copy(whole), private_copy(whole)):  # the first fills caches
        with Failing() as counting:
            call(case, *given)
    case.model = whole
    before = case.fingerprint()
    step = max(1, counting.count // PLACES)
    for at in range(1, counting.count + 1, step):
        with pytest.raises(KeyboardInterrupt), Failing(at):
            call(case, *given)
        after = case.fingerprint()
        assert not [key for key in {**before, **after} if before.get(key) != after.get(key)], at
    made = call(case, *given)  # and then it works
    assert made is not None
    if verb == "replay" and name in ("selecting", "branches"):
        kind = {"selecting": SelectLinear, "branches": Empty}[name]
        assert any(isinstance(module, kind) for module in case.model.modules())


class Breaking:
    """A loader that raises at its k-th batch, each time that it is read."""

    def __init__(self, loader: list[Any], at: int, error: Exception) -> None:
        self.loader, self.at, self.error = loader, at, error

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self.loader):
            if i == self.at:
                raise self.error
            yield batch


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("compensate", ["none", "pointwise", "joint"])
@pytest.mark.parametrize("batch", [0, 1])
def test_a_loader_that_raises_changes_nothing(compensate: str, batch: int, undo: bool) -> None:
    case = Case("residual")
    case.model.half() if compensate == "joint" and batch else None
    before = case.fingerprint()
    loader = Breaking(case.loader, batch, OSError("the disk is gone"))
    with pytest.raises(OSError, match="the disk is gone"):
        apply_(
            case.model,
            case.plan,
            case.statistics,
            loader=loader,
            groups=case.groups,
            compensate=compensate,
            batchnorm="always",
            undo=undo,
        )
    assert case.fingerprint() == before


@pytest.mark.parametrize(
    ("compensate", "where"),
    [
        ("pointwise", "prunus.surgery.repair.closed_form._takeover"),
        ("joint", "prunus.surgery.repair.layerwise.LEAST_A_FEATURE"),
        ("joint", "prunus.surgery.repair.layerwise._rows"),
        ("merge", "prunus.surgery.repair.merge._columns"),
        ("none", "prunus.surgery.apply.Receipt"),
        ("none", "prunus.surgery.cut.tie_"),
        ("none", "prunus.surgery.apply.bake_"),
    ],
)
def test_a_step_that_raises_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, compensate: str, where: str
) -> None:
    case = Case("residual")
    before = case.fingerprint()

    def singular(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("singular")  # type: ignore[attr-defined]

    monkeypatch.setattr(where, None if where.endswith("FEATURE") else singular)
    with pytest.raises((torch.linalg.LinAlgError, TypeError)):  # type: ignore[attr-defined]
        apply_(
            case.model,
            case.plan,
            case.statistics,
            loader=case.loader if compensate == "joint" else None,
            groups=case.groups,
            compensate=compensate,
            undo=False,
        )
    assert case.fingerprint() == before


class Counting(nn.Module):
    """Its forward pass counts in an attribute, a list and a buffer, and fails at the third call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.calls, self.sizes = 0, {"seen": [0]}
        self.register_buffer("seen", torch.zeros(()))
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes["seen"].append(len(x))
        self.get_buffer("seen").add_(1)
        if self.fails and self.calls == 3:
            raise MemoryError
        made: Tensor = self.b(self.norm(self.a(x)).relu())
        return made


def test_what_a_forward_pass_writes_is_taken_back() -> None:
    torch.manual_seed(0)
    model, x = Counting(), torch.randn(8, 6)
    plan = random_plan(find_groups(model, x), seed=1)
    model.fails = True
    before, seen = state(model), model.get_buffer("seen")
    with pytest.raises(DataError, match="MemoryError"):
        apply_(model, plan, loader=[(x, torch.arange(8) % 4)] * 4, compensate="none", undo=False)
    assert state(model) == before
    assert model.get_buffer("seen") is seen
    assert model.sizes == {"seen": [0]}


def test_an_optimiser_whose_state_does_not_fit_is_left_alone() -> None:
    case = Case("residual")
    tensors = tensors_of(case.model)
    replay_(case.model, case.plan)
    before = case.fingerprint()
    moved = tensors["conv2.weight"]
    for at in (1, 5, 50):
        with pytest.raises(KeyboardInterrupt), Failing(at):
            cut_state_(case.optimizer, tensors, case.model, case.plan)
        assert case.fingerprint() == before
    case.optimizer.state[moved] = {"odd": 3, "moment": Odd(moved)}
    before = case.fingerprint()
    with pytest.raises(ArithmeticError):
        cut_state_(case.optimizer, tensors, case.model, case.plan)
    assert case.fingerprint() == before


class Odd(nn.Parameter):
    """A state of the right shape that cannot be sliced."""

    def __new__(cls, like: Tensor) -> Odd:
        return nn.Parameter.__new__(cls, like.detach().clone(), requires_grad=False)

    def reshape(self, *_: Any) -> Any:
        raise ArithmeticError


@pytest.mark.parametrize("places", [1, 2, 3])
def test_baking_is_all_or_nothing(places: int) -> None:
    case = Case("attention")
    case.model.down = parametrizations.spectral_norm(case.model.down)
    before = case.fingerprint()
    with pytest.raises(MemoryError), Failing(places, MemoryError):
        bake_(case.model)
    assert case.fingerprint() == before
    baked = bake_(case.model)
    assert {each.name for each in baked} == {"up", "down"}
    middle = case.fingerprint()
    baked.append(prunus.modules.Baked("nowhere", ("weight",), "", {}))
    with pytest.raises(AttributeError):
        unbake_(case.model, baked)
    assert case.fingerprint() == middle
    unbake_(case.model, baked[:2])
    assert {**case.fingerprint(), "state": 0} == {**before, "state": 0}


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_masked() -> None:
    case = Case("residual")
    before = case.fingerprint()
    names = dict(case.plan.modules)
    with pytest.raises(PlanError, match="has no module 'nowhere'"):
        mask_(case.model, Plan(modules={**names, "nowhere": {"out": Edit(of=3, removed=(1,))}}))
    assert case.fingerprint() == before


def test_weights_are_loaded_all_or_none(tmp_path: Path) -> None:
    case = Case("residual")
    torch.save(nets.build("residual", seed=3).state_dict(), tmp_path / "weights.pt")
    before = case.fingerprint()
    case.model.head.register_load_state_dict_post_hook(broken)  # type: ignore[union-attr]
    before = case.fingerprint()
    with pytest.raises(WeightsError, match="odd"):
        load_weights_(case.model, tmp_path / "weights.pt")
    assert case.fingerprint() == before


def broken(module: nn.Module, keys: Any) -> None:
    raise WeightsError("odd")
