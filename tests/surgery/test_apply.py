"""Carrying out a plan: what each setting needs, what it calls, and all or nothing."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError
from prunus.graph import Groups, find_groups
from prunus.plan import Plan, plan_units
from prunus.statistics import collect
from prunus.surgery import COMPENSATIONS, Repair, apply_
from tests.conftest import random_plan
from tests.graph.nets import batches, build, images


def test_norms_are_counted_in_the_receipt() -> None:
    model = build("residual")
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {"conv1": [0]})
    receipt = apply_(model, plan, loader=batches(), compensate="none")
    assert receipt.batchnorms == 2
    assert receipt.repairs == ()
    assert receipt.channels == {
        "conv1": {"out": (5, 4)},
        "bn1": {"out": (5, 4)},
        "conv2": {"in": (5, 4)},
    }


@dataclass
class Refit:
    """Stands in for layer-by-layer repair, and keeps what it was given."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False
    joint: bool = False

    def __call__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        groups: Groups,
        plan: Plan,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        ridge: float,
        joint: bool,
    ) -> list[Repair]:
        self.joint = joint
        with torch.no_grad():
            next(pruned.parameters()).zero_()
        if self.fails:
            raise DataError("no batch came")
        seen = [len(x) for x, _ in batches]
        params = [sum(p.numel() for p in m.parameters()) for m in (pruned, dense)]
        shared = groups.model is dense
        self.calls.append(
            {"params": params, "seen": seen, "ridge": ridge, "plan": plan, "shared": shared}
        )
        return [Repair("conv2", 0.25)]


@pytest.fixture
def refit(monkeypatch: pytest.MonkeyPatch) -> Refit:
    stand_in = Refit()
    monkeypatch.setattr("prunus.surgery.apply.refit_", stand_in)
    return stand_in


@pytest.mark.parametrize("known", ["statistics", "groups", "traced"])
def test_patch_with_a_loader_refits_the_cut_network(refit: Refit, known: str) -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {"conv1": [0, 5]})
    given: dict[str, Any] = {
        "statistics": {"statistics": collect(model, batches(), groups, sampling="pixel")},
        "groups": {"groups": groups},
        "traced": {},
    }[known]
    norm = copy.deepcopy(model.bn1.running_mean)
    receipt = apply_(
        model, plan, loader=iter(batches(2, 8)), compensate="patch", ridge=0.1, **given
    )
    (call,) = refit.calls
    assert call["params"] == list(reversed(receipt.params))
    assert call["seen"] == [8, 8]
    assert (call["ridge"], call["plan"], call["shared"]) == (0.1, plan, True)
    assert receipt.repairs == (Repair("conv2", 0.25),)
    assert receipt.batchnorms == 0
    assert torch.equal(model.bn1.running_mean, norm[[1, 2, 3, 4, 6, 7]])


@pytest.mark.parametrize(
    ("compensate", "rule", "norms"),
    [
        ("none", "auto", 1),
        ("none", "never", 0),
        ("merge", "auto", 1),
        ("patch", "auto", 0),
        ("patch", "always", 1),
        ("patch", "never", 0),
        (None, "auto", 0),
    ],
)
def test_when_norms_are_estimated_anew(
    refit: Refit, compensate: str | None, rule: str, norms: int
) -> None:
    model = build("plain")
    plan = plan_units(find_groups(model, images(1)), {"conv1": [0, 5]})
    loader = iter(batches(2, 8))  # can be read once only
    receipt = apply_(model, plan, loader=loader, compensate=compensate, batchnorm=rule)
    assert receipt.batchnorms == norms
    assert refit.joint is (compensate is None)  # the default, with a loader


def test_shrinkage_is_handed_on() -> None:
    plan = plan_units(find_groups(build("plain"), images(1)), {"conv1": [0, 5]})
    found = []
    for shrink in (0.0, 0.5, 1.0):
        model = build("plain")
        apply_(model, plan, loader=batches(), compensate="none", shrink=shrink)
        found.append(model.bn1.running_var)
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compensate": "magic"}, f"expected one of {', '.join(COMPENSATIONS)}"),
        ({"compensate": "bias"}, "'bias' needs statistics"),
        ({"compensate": "pointwise"}, "'pointwise' needs statistics"),
        ({"compensate": "patch"}, "'patch' needs a loader, or statistics"),
        ({"compensate": "merge"}, "'merge' needs groups"),
        ({"batchnorm": "sometimes"}, "expected one of auto, always, never"),
        ({"batchnorm": "always"}, "'always' needs images"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"ridge": float("inf")}, "ridge is inf"),
        ({"shrink": 2.0}, "shrink is 2.0"),
    ],
)
def test_what_is_not_given_is_asked_for(options: dict[str, Any], message: str) -> None:
    model = build("plain")
    before = copy.deepcopy(model.state_dict())
    plan = plan_units(find_groups(model, images(1)), {"conv1": [0]})
    with pytest.raises(ConfigError, match=message):
        apply_(model, plan, **options)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_loader_without_a_batch_has_nothing_to_trace() -> None:
    with pytest.raises(DataError, match="gave no batch"):
        apply_(build("plain"), Plan(), loader=[], compensate="merge")


@pytest.mark.parametrize("net", ["plain", "flatten", "depthwise"])
@pytest.mark.parametrize("where", ["repair", "refit", "norms"])
def test_a_cut_that_breaks_off_is_taken_back(
    refit: Refit, monkeypatch: pytest.MonkeyPatch, net: str, where: str
) -> None:
    model = build(net)
    groups = find_groups(model, images(1))
    plan = random_plan(groups, 3)
    before = copy.deepcopy(model)
    options: dict[str, Any] = {"compensate": "none", "loader": batches()}
    refit.fails = where == "refit"
    if where == "refit":
        options["compensate"] = "patch"

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("no batch came")

    if where == "norms":
        monkeypatch.setattr("prunus.surgery.apply.reestimate_batchnorm_", fail)
    if where == "repair":
        options["compensate"] = "merge"
        monkeypatch.setattr("prunus.surgery.apply.merge_", fail)
    with pytest.raises(DataError, match="no batch came"):
        apply_(model, plan, **options)
    assert repr(model) == repr(before)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(images(2)), before(images(2)))
