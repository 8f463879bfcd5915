"""Undo: bit by bit as before, or with what training did to the units that stayed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import PlanError
from prunus.graph import SelectLinear, find_groups
from prunus.plan import Plan, plan_units
from prunus.statistics import collect
from prunus.surgery import Receipt, apply_, replay_, undo_
from tests.conftest import random_plan
from tests.graph.nets import NETS, batches, build, images


def same(one: nn.Module, other: nn.Module) -> None:
    """Assert equal structure, flags and bits."""
    assert repr(one) == repr(other)
    state = other.state_dict()
    assert list(one.state_dict()) == list(state)
    for name, tensor in one.state_dict().items():
        assert (tensor.dtype, tensor.shape) == (state[name].dtype, state[name].shape), name
        assert tensor.contiguous().numpy().tobytes() == state[name].numpy().tobytes(), name
    flags = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (one, other)]
    assert flags[0] == flags[1]
    assert [m.training for m in one.modules()] == [m.training for m in other.modules()]
    with torch.no_grad():
        assert torch.equal(one.eval()(images(3)), other.eval()(images(3)))


def train_(model: nn.Module, steps: int = 2) -> None:
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for x, y in batches(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.eval()


def cut_(model: nn.Module, compensate: str = "pointwise", seed: int = 1, **given: Any) -> Receipt:
    groups = find_groups(model, images(1))
    options: dict[str, Any] = {"statistics": collect(model, batches(), groups, sampling="patch")}
    options |= {"loader": batches(), "compensate": compensate, "batchnorm": "always"}
    if compensate == "patch":
        options |= {"loader": None, "batchnorm": "never"}
    return apply_(model, random_plan(groups, seed), **{**options, **given})


@pytest.mark.parametrize("compensate", ["none", "pointwise", "patch", "merge"])
@pytest.mark.parametrize("net", NETS)
def test_undone_bit_by_bit_also_after_training(net: str, compensate: str, tmp_path: Path) -> None:
    model = build(net)
    next(model.parameters()).requires_grad_(False)
    dense = copy.deepcopy(model)
    receipt = cut_(model, compensate)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in dense.parameters())
    train_(model)
    receipt.save(tmp_path / "receipt.safetensors")
    assert undo_(model, Receipt.load(tmp_path / "receipt.safetensors")) is model
    same(model, dense)
    receipt = cut_(model, compensate)  # a network that came back can be cut like any other
    undo_(model, receipt)
    same(model, dense)


@pytest.mark.parametrize("features", [[3, 20, 61], list(range(0, 80, 3))])
def test_selecting_layers_come_back_whatever_they_were(features: list[int]) -> None:
    model = build("flatten")
    groups = find_groups(model, images(1))
    first = apply_(model, plan_units(groups, {"fc1.features": features}))
    half = copy.deepcopy(model)
    assert isinstance(model.get_submodule("fc1"), SelectLinear)
    plans = [{"fc1.features": [0, 7]}, {"conv1": [0, 3]}, {"conv1": [1], "fc1.features": [30]}]
    for removed in plans:
        receipt = apply_(model, plan_units(find_groups(model, images(1)), removed))
        undo_(model, receipt)
        same(model, half)
    undo_(model, first)
    same(model, build("flatten"))


def test_a_selecting_layer_that_became_plain() -> None:
    model = build("flatten")
    apply_(model, plan_units(find_groups(model, images(1)), {"fc1.features": [3, 20]}))
    half = copy.deepcopy(model)
    receipt = apply_(model, plan_units(find_groups(model, images(1)), {"conv1": [0, 1]}))
    assert type(model.get_submodule("fc1")) is nn.Linear
    undo_(model, receipt, keep_training=True)
    same(model, half)


def test_one_depthwise_channel_comes_back_as_many() -> None:
    model = build("depthwise")
    groups = find_groups(model, images(1))
    receipt = apply_(model, plan_units(groups, {"expand": range(1, 8)}))
    undo_(model, receipt)
    same(model, build("depthwise"))


@pytest.mark.parametrize("compensate", ["none", "pointwise"])
@pytest.mark.parametrize("net", NETS)
def test_without_training_both_modes_are_one(net: str, compensate: str) -> None:
    model = build(net)
    receipt = cut_(model, compensate)
    undo_(model, receipt, keep_training=True)
    dense = build(net)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):  # how often norms were estimated is kept
            dense.get_buffer(name).copy_(value)
    same(model, dense)


@pytest.mark.parametrize("net", NETS)
def test_kept_units_keep_their_training_and_removed_ones_their_old_weights(net: str) -> None:
    """Element by element: which one survived is found by cutting a network of marks."""
    model = build(net)
    dense = copy.deepcopy(model)
    receipt = cut_(model, "none", batchnorm="never")
    train_(model)
    now = copy.deepcopy(model.state_dict())
    undo_(model, receipt, keep_training=True)
    assert repr(model) == repr(dense)
    again = replay_(copy.deepcopy(model), receipt.plan).state_dict()
    for name, tensor in now.items():
        assert torch.equal(again[name], tensor), name
    marked = copy.deepcopy(dense)
    for tensor in marked.state_dict().values():
        tensor.zero_()
    undone = model.state_dict()
    kept_count = sum(t.numel() for t in now.values() if t.is_floating_point())
    differing = 0
    for name, tensor in dense.state_dict().items():
        if tensor.is_floating_point():
            differing += int((undone[name] != tensor).sum())
    assert 0 < differing <= kept_count


def test_what_the_repair_did_is_taken_back_and_what_training_did_is_not() -> None:
    model = build("mlp")
    dense = copy.deepcopy(model)
    groups = find_groups(model, images(1))
    statistics = collect(model, batches(), groups)
    receipt = apply_(model, plan_units(groups, {"fc2": [0, 5]}), statistics)
    repaired = copy.deepcopy(model)
    train_(model)
    now = copy.deepcopy(model)
    undo_(model, receipt, keep_training=True)
    kept = [1, 2, 3, 4, 6, 7]
    with torch.no_grad():
        learned = now.fc3.weight - repaired.fc3.weight
        expected = dense.fc3.weight.clone()
        expected[:, kept] += learned
        torch.testing.assert_close(model.fc3.weight, expected)
        assert torch.equal(model.fc3.weight[:, [0, 5]], dense.fc3.weight[:, [0, 5]])
        assert torch.equal(model.fc2.weight[kept], now.fc2.weight)
        assert torch.equal(model.fc2.weight[[0, 5]], dense.fc2.weight[[0, 5]])
        assert torch.equal(model.fc1.weight, now.fc1.weight)


def test_running_variances_stay_positive() -> None:
    model = build("residual")
    receipt = cut_(model, "pointwise")
    with torch.no_grad():
        for name in ("bn1", "bn2"):
            norm = model.get_submodule(name)
            norm.running_var *= 1e-3
            norm.running_mean += 1.0
    dense = build("residual")
    undo_(model, receipt, keep_training=True)
    removed = receipt.plan.modules["bn1"]["out"].removed
    kept = [i for i in range(5) if i not in removed]
    torch.testing.assert_close(model.bn1.running_var[kept], 1e-3 * dense.bn1.running_var[kept])
    torch.testing.assert_close(model.bn1.running_mean[kept], 1 + dense.bn1.running_mean[kept])


def other_widths() -> nn.Module:
    model = build("mlp")
    cut_(model, seed=5)
    return model


def cut_again() -> nn.Module:
    model = build("mlp")
    cut_(model)
    groups = find_groups(model, images(1))
    apply_(model, plan_units(groups, {groups.entries[-1].name: [0]}))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("plain"), "is of a Mlp, not of a Plain"),
        (lambda: build("mlp"), "it has not been cut, or the receipt has already been undone"),
        (other_widths, "does not fit this Mlp: tensor '.*' has shape"),
        (cut_again, "Undo later cuts first"),
    ],
)
@pytest.mark.parametrize("keep_training", [True, False])
def test_another_network_is_refused_and_left_alone(
    make: Any, message: str, keep_training: bool
) -> None:
    receipt = cut_(build("mlp"))
    model = make()
    before = copy.deepcopy(model)
    with pytest.raises(PlanError, match=message):
        undo_(model, receipt, keep_training=keep_training)
    same(model, before)


def test_nothing_kept_nothing_undone() -> None:
    model = build("mlp")
    receipt = cut_(model, undo=False)
    assert (receipt.memory, receipt.bytes) == (None, 0)
    with pytest.raises(PlanError, match=r"apply_\(undo=True\)"):
        undo_(model, receipt)


def test_an_empty_plan_can_be_undone() -> None:
    model = build("plain")
    receipt = apply_(model, Plan())
    train_(model)
    undo_(model, receipt)
    same(model, build("plain"))


def test_parameters_that_keep_their_shape_stay_the_same_objects() -> None:
    model = build("plain")
    head, conv2 = model.head.weight, model.conv2
    receipt = apply_(model, plan_units(find_groups(model, images(1)), {"conv1": [0]}))
    undo_(model, receipt)
    assert model.head.weight is head
    assert model.conv2 is conv2


def test_a_network_can_be_trained_after_undoing() -> None:
    model = build("flatten")
    receipt = cut_(model)
    undo_(model, receipt)
    before = model.fc1.weight.detach().clone()
    train_(model)
    assert not torch.equal(model.fc1.weight, before)


def test_values_are_kept_apart_from_the_network() -> None:
    """A receipt is no view of the weights that training goes on changing."""
    model = build("plain")
    receipt = apply_(model, Plan())
    assert receipt.memory is not None
    held: dict[str, Tensor] = {n: t.clone() for n, t in receipt.memory.dense.items()}
    train_(model)
    assert all(torch.equal(t, receipt.memory.dense[n]) for n, t in held.items())
    undo_(model, receipt)
    train_(model)
    assert all(torch.equal(t, receipt.memory.dense[n]) for n, t in held.items())


class Scaled(nn.Module):
    """Multiplies channels by a buffer that no state dict holds."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.register_buffer("scale", torch.rand(1, 8, 1, 1), persistent=False)
        self.register_buffer("cache", None, persistent=False)
        self.conv2 = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None or self.cache.shape[-1] != x.shape[-1]:
            self.cache = torch.ones(x.shape[-1])
        return self.conv2(self.scale * self.conv1(x * self.cache))


@pytest.mark.parametrize("keep_training", [False, True])
def test_buffers_that_are_not_saved_come_back_too(keep_training: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Scaled(), torch.rand(2, 3, 9, 9)
    before, scale = model(x), model.scale.clone()
    receipt = apply_(model, plan_units(find_groups(model, x), {"conv1": [1, 5]}))
    assert model.scale.shape == (1, 6, 1, 1)
    model(x[..., :7])  # changes the shape of the cache: no reason to refuse
    receipt.save(tmp_path / "receipt.safetensors")
    receipt = Receipt.load(tmp_path / "receipt.safetensors")
    undo_(model, receipt, keep_training=keep_training)
    assert torch.equal(model.scale, scale)
    assert torch.equal(model(x), before)
    with pytest.raises(PlanError, match="as wide as before"):
        undo_(model, receipt)
