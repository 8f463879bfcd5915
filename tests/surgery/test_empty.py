"""Whole branches cut: the same function as masked, mended, undone, cut again, exported."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.core.errors import PlanError
from prunus.export import export_model
from prunus.graph import Empty, Groups, find_groups
from prunus.models import build_model
from prunus.modules.empty import EmptyNorm, can_be_empty, emptied
from prunus.plan import Edit, Plan, plan_units
from prunus.plan.cost_tracker import CostTracker
from prunus.statistics import collect
from prunus.surgery import (
    COMPENSATIONS,
    Receipt,
    apply_,
    cut_state_,
    mask_,
    replay_,
    sound_branches,
    tensors_of,
    undo_,
)
from tests.conftest import randomise_norms_
from tests.graph.branching import NETS, build
from tests.graph.nets import batches, images
from tests.surgery.test_undo import same, train_

TRACED = {
    name: sound_branches(find_groups(build(name), images(1), drop_branches=True), images(1))
    for name in NETS
}


def draw_plan(groups: Groups, seed: int, most: float = 0.5, often: float = 0.6) -> Plan:
    """Drop random branches, as many as go, and a random share of everything else."""
    generator = torch.Generator().manual_seed(seed)
    tracker, removed = CostTracker(groups), {}
    for at in torch.randperm(len(groups), generator=generator).tolist():
        if float(torch.rand((), generator=generator)) < often:
            tracker.drop(tracker.falling(groups.entries[at]))
    for group in groups.values():
        order = torch.randperm(group.units, generator=generator)
        share = float(torch.rand((), generator=generator)) * most
        count = min(int(share * group.units), group.units - max(group.least, 1))
        whole = not tracker.left[group.name].any()
        removed[group.name] = range(group.units) if whole else order[:count].tolist()
    return plan_units(groups, removed)


def dropped(plan: Plan) -> list[str]:
    return [name for name, edit in plan.groups.items() if edit.all_gone]


@settings(max_examples=12)
@given(st.sampled_from(sorted(NETS)), st.integers(0, 10**6))
def test_cut_equals_masked(net: str, seed: int) -> None:
    groups, x = TRACED[net], images(3)
    plan = draw_plan(groups, seed)
    masked = mask_(copy.deepcopy(groups.model), plan)
    cut = replay_(copy.deepcopy(groups.model), Plan.from_json(plan.to_json()))
    with torch.no_grad():
        expected, found = masked(x), cut(x)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)
        expected, found = masked.train()(x), cut.train()(x)  # norms by the batch
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_googlenet_of_torchvision() -> None:
    torch.manual_seed(0)
    model = randomise_norms_(
        build_model("torchvision:googlenet", num_classes=5, input_shape=(3, 32, 32))
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    groups = find_groups(model, x[:1], drop_branches=True)
    plan = draw_plan(groups, 0)
    assert len(dropped(plan)) > 10
    masked = mask_(copy.deepcopy(model), plan)
    with torch.no_grad():
        found, expected = replay_(model, plan)(x), masked(x)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2),
    st.booleans(),
)  # fmt: skip
def test_an_empty_has_the_size_of_its_convolution(
    axes: int, kernel: int, stride: int, padding: int, dilation: int, same_size: bool
) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    conv = kind(2, 3, kernel, stride=stride, padding=padding, dilation=dilation)
    if same_size and (kernel % 2 or dilation % 2 == 0):
        conv = kind(2, 3, kernel, padding="same", dilation=dilation)
    for shape in ((2, 2, *(11, 9, 8)[:axes]), (2, *(11, 9, 8)[:axes])):  # a batch, and no batch
        x = torch.randn(shape, dtype=torch.float64)
        y = conv.double()(x)
        found = emptied(copy.deepcopy(conv))(x)
        at = y.dim() - axes - 1
        assert found.shape == (*y.shape[:at], 0, *y.shape[at + 1 :])
        assert found.dtype == y.dtype


def test_what_can_be_empty() -> None:
    assert all(map(can_be_empty, (nn.Conv1d(2, 2, 1), nn.BatchNorm2d(2), nn.PReLU(2))))
    others = (
        nn.Linear(2, 2), nn.Conv2d(2, 2, 1, groups=2), nn.ConvTranspose2d(2, 2, 1),
        nn.GroupNorm(1, 2), nn.LayerNorm(2),
    )  # fmt: skip
    assert not any(map(can_be_empty, others))
    conv = nn.Conv2d(2, 3, 3).eval()
    assert not emptied(conv).training
    assert not list(Empty(nn.Conv2d(2, 3, 3)).parameters())
    assert not EmptyNorm(nn.BatchNorm2d(3)).state_dict()


def test_a_branch_that_an_operation_needs_stays() -> None:
    """`pooled` alone runs into a pooling, which takes no tensor without channels."""
    groups = find_groups(build("coupled"), images(1), drop_branches=True)
    sound = sound_branches(groups, images(1))
    assert {g.name for g in groups.values() if g.least == 0} == {"pooled", "plain"}
    assert {g.name for g in sound.values() if g.least == 0} == {"plain"}
    for net in ("inception", "reduction", "dense"):
        free = find_groups(build(net), images(1), drop_branches=True)
        assert [g.least for g in TRACED[net].values()] == [g.least for g in free.values()]


def test_plans_that_leave_nothing_are_refused() -> None:
    groups = TRACED["reduction"]
    with pytest.raises(PlanError, match="head would be left without inputs"):
        plan_units(groups, {"loose": range(5), "tight": range(3)})
    with pytest.raises(PlanError, match=r"3 of the 3 units of three\.0\.0 would be removed"):
        plan_units(groups, {"three.0.0": range(3)})
    whole = Edit(3, (0, 1, 2))
    for modules in (
        {"three.1.0": {"in": whole}},  # it would still make something
        {"head": {"out": Edit(4, (0, 1, 2, 3))}},
    ):
        with pytest.raises(PlanError, match="leaves no channel"):
            replay_(build("reduction"), Plan(modules=modules))


@pytest.mark.parametrize("compensate", COMPENSATIONS)
@pytest.mark.parametrize("net", ["reduction", "dense"])
def test_undone_bit_by_bit_also_after_training(net: str, compensate: str, tmp_path: Path) -> None:
    model = build(net)
    next(model.parameters()).requires_grad_(False)
    dense = copy.deepcopy(model)
    groups = sound_branches(find_groups(model, images(1), drop_branches=True), images(1))
    plan = draw_plan(groups, 3)
    assert dropped(plan)
    statistics = collect(model, batches(), groups, sampling="patch")
    receipt = apply_(
        model, plan, statistics, loader=batches(), groups=groups, compensate=compensate
    )
    alive = {name for name in plan.modules if not plan.empties(name)}
    assert {repair.module for repair in receipt.repairs} <= {*alive, *groups.consumers}
    assert not any(plan.empties(repair.module) for repair in receipt.repairs)
    assert sum(p.numel() for p in model.parameters()) == receipt.params[1]
    train_(model)
    receipt.save(tmp_path / "receipt.safetensors")
    undo_(model, Receipt.load(tmp_path / "receipt.safetensors"))
    same(model, dense)


def test_undone_with_what_training_did_to_the_rest() -> None:
    model = build("reduction")
    dense = copy.deepcopy(model)
    groups = find_groups(model, images(1), drop_branches=True)
    plan = plan_units(groups, {"three.1.0": range(5), "tight": [0]})
    receipt = apply_(model, plan, compensate="none")
    with torch.no_grad():
        model.loose.bias += 1
    undo_(model, receipt, keep_training=True)
    assert torch.equal(model.loose.bias, dense.loose.bias + 1)
    for name in ("three.0.0.weight", "three.1.0.weight", "three.1.1.running_var", "tight.weight"):
        assert torch.equal(model.state_dict()[name], dense.state_dict()[name])


@pytest.mark.parametrize("compensate", ["pointwise", "patch", "joint"])
def test_what_a_dropped_branch_said_is_taken_over(compensate: str) -> None:
    """Branch `tight` says what `loose` says: without it the network computes the same."""
    model = build("reduction")
    model.loose = nn.Conv2d(16, 3, 1)
    model.loose.load_state_dict(model.tight.state_dict())
    model.head = nn.Linear(6 * 25, 4)
    model.forward = forward.__get__(model)
    groups = find_groups(model, images(1), drop_branches=True)
    x, loader = images(40), [(images(40), torch.arange(40) % 4)] * 8
    expected = model(x).detach()
    statistics = collect(model, loader, groups, sampling="patch")
    plan = plan_units(groups, {"tight": range(3)})
    bare = replay_(copy.deepcopy(model), plan)
    receipt = apply_(
        model, plan, statistics, loader=loader, groups=groups, compensate=compensate, ridge=1e-6,
        batchnorm="never",
    )  # fmt: skip
    assert [repair.module for repair in receipt.repairs] == ["head"]
    with torch.no_grad():
        assert float((bare(x) - expected).abs().max()) > 0.05
        torch.testing.assert_close(model(x), expected, atol=2e-3, rtol=0)


def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    pooled = nn.functional.max_pool2d(x, 2)
    x = torch.cat([self.one(x), self.three(x), self.wide(x), pooled], 1)
    x = torch.cat([self.loose(x).relu(), self.tight(x).relu()], 1)
    return self.head(x.flatten(1))


def test_merge_says_that_nothing_is_left_to_merge_with() -> None:
    model, groups = build("reduction"), TRACED["reduction"]
    plan = plan_units(groups, {"three.1.0": range(5)})
    receipt = apply_(model, plan, groups=groups, compensate="merge")
    assert {r.module for r in receipt.repairs} == {"loose", "tight"}
    assert all("none of them is left" in r.reason for r in receipt.repairs)


@pytest.mark.parametrize("net", ["reduction", "dense"])
def test_a_second_cut_chains_with_the_first(net: str) -> None:
    dense = build(net)
    model, whole = copy.deepcopy(dense), Plan()
    dead: list[str] = []
    for seed in (5, 6):
        groups = sound_branches(find_groups(model, images(1), drop_branches=True), images(1))
        assert not {n for n in groups.layers if whole.empties(n)}
        plan = draw_plan(groups, seed, often=0.3)
        dead += dropped(plan)
        replay_(model, plan)
        whole = whole.then(plan)
    again = replay_(copy.deepcopy(dense), Plan.from_json(whole.to_json()))
    assert set(dead) == set(dropped(whole)) != set()
    assert repr(again) == repr(model)
    assert torch.equal(again(images(2)), model(images(2)))


def test_an_optimizer_follows() -> None:
    model = build("reduction")
    optimizer = torch.optim.Adam(model.parameters())
    model(images(2)).sum().backward()
    optimizer.step()
    before = tensors_of(model)
    plan = draw_plan(TRACED["reduction"], 3)
    replay_(model, plan)
    assert cut_state_(optimizer, before, model, plan) == []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} == held
    optimizer.zero_grad()
    model(images(2)).sum().backward()
    optimizer.step()


def test_an_exported_program_computes_the_same(tmp_path: Path) -> None:
    model = build("reduction")
    plan = plan_units(TRACED["reduction"], {"one.0": range(4), "wide.2.0": range(4), "loose": [1]})
    replay_(model, plan)
    parity = export_model(model, images(4), tmp_path / "model.pt2", "pt2")
    assert parity.largest_difference <= 1e-4
