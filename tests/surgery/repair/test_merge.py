"""Merging without data: scaled copies of a filter cost nothing, the rest is told apart."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import PlanError
from prunus.graph import find_groups
from prunus.plan import Edit, Plan, plan_units
from prunus.surgery import Receipt, apply_, mask_, replay_
from tests.graph.nets import NETS, build, images


class Copies(nn.Module):
    """maker → norm → activation → consumer; unit 4 is to be a scaled copy of unit 1."""

    def __init__(self, norm: bool, act: Callable[[Tensor], Tensor], consumer: nn.Module) -> None:
        super().__init__()
        self.maker = nn.Conv2d(3, 6, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.act, self.consumer = act, consumer
        self.head = nn.Conv2d(5, 4, 1) if not isinstance(consumer, nn.Linear) else nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.act(self.norm(self.maker(x))), 2)
        x = x.flatten(1) if isinstance(self.consumer, nn.Linear) else x
        return self.head(self.consumer(x).relu())


CASES: dict[str, Callable[[], Copies]] = {
    "relu": lambda: Copies(False, F.relu, nn.Conv2d(6, 5, 3)),
    "norm": lambda: Copies(True, F.relu, nn.Conv2d(6, 5, 3, bias=False)),
    "leaky": lambda: Copies(True, nn.LeakyReLU(0.3), nn.Conv2d(6, 5, 1)),
    "prelu": lambda: Copies(True, nn.PReLU(6), nn.Conv2d(6, 5, 1)),
    "flattened": lambda: Copies(False, F.relu, nn.Linear(6 * 16, 5)),
    "transposed": lambda: Copies(False, F.relu, nn.ConvTranspose2d(6, 5, 3)),
}


def copied(kind: str, scale: float) -> Copies:
    """After the norm, unit 4 is `scale` times unit 1, though its filter is 7 times unit 1's."""
    from tests.conftest import randomise_norms_

    torch.manual_seed(0)
    model = randomise_norms_(CASES[kind]()).double().eval()
    with torch.no_grad():
        if isinstance(model.norm, nn.BatchNorm2d):
            n = model.norm
            model.maker.weight[4] = 7 * model.maker.weight[1]
            deviation = (n.running_var + n.eps).sqrt()
            n.weight[4] = scale * n.weight[1] / deviation[1] * deviation[4] / 7
            offset = n.bias[1] - n.weight[1] * n.running_mean[1] / deviation[1]
            n.bias[4] = scale * offset + n.weight[4] * n.running_mean[4] / deviation[4]
        else:
            model.maker.weight[4] = scale * model.maker.weight[1]
            model.maker.bias[4] = scale * model.maker.bias[1]
    return model


def merged(model: nn.Module, removed: dict[str, list[int]]) -> tuple[nn.Module, Receipt]:
    dtype = next(model.parameters()).dtype
    groups = find_groups(model, images(1).to(dtype))
    cut = copy.deepcopy(model)
    return cut, apply_(cut, plan_units(groups, removed), groups=groups, compensate="merge")


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.37, 5.0])
@pytest.mark.parametrize("kind", CASES)
def test_a_scaled_copy_goes_without_loss(kind: str, scale: float) -> None:
    model, x = copied(kind, scale), images(4).double()
    for gone in (4, 1):
        cut, receipt = merged(model, {"maker": [gone]})
        torch.testing.assert_close(cut(x), model(x))
        (repair,) = receipt.repairs
        assert repair.module == "consumer"
        assert repair.left == pytest.approx(0, abs=1e-12)
        plain = replay_(copy.deepcopy(model), receipt.plan)
        assert float((plain(x) - model(x)).abs().max()) > 1e-3


@torch.no_grad()
def test_the_opposite_of_a_filter_is_no_copy_of_it() -> None:
    model = copied("relu", -1.0)
    model.maker.weight[[0, 2, 3, 5]] = 0
    model.maker.bias[[0, 2, 3, 5]] = 0
    cut, receipt = merged(model, {"maker": [4]})
    assert receipt.repairs[0].left == 1
    kept = [0, 1, 2, 3, 5]
    assert torch.equal(cut.consumer.weight, model.consumer.weight[:, kept])


@torch.no_grad()
def test_the_partner_and_the_scale_are_those_of_the_definition() -> None:
    """Largest cosine among the kept, and the projection; written out for a linear layer."""
    model = build("mlp").double()
    removed = [2, 5, 7]
    kept = [i for i in range(8) if i not in removed]
    cut, receipt = merged(model, {"fc2": removed})
    V = torch.cat([model.fc2.weight, model.fc2.bias[:, None]], 1)
    W = model.fc3.weight.clone()
    lost = total = 0.0
    for p in removed:
        cosines = {k: float(F.cosine_similarity(V[p], V[k], dim=0)) for k in kept}
        k = max(cosines, key=lambda k: cosines[k])
        s = max(0.0, float(V[p] @ V[k] / (V[k] @ V[k])))
        W[:, k] += s * model.fc3.weight[:, p]
        read = float(model.fc3.weight[:, p].square().sum())
        lost += read * float((V[p] - s * V[k]).square().sum())
        total += read * float(V[p].square().sum())
    torch.testing.assert_close(cut.fc3.weight, W[:, kept])
    assert torch.equal(cut.fc3.bias, model.fc3.bias)
    assert receipt.repairs[0].left == pytest.approx(lost / total, rel=1e-9)


@torch.no_grad()
def test_several_layers_in_one_plan() -> None:
    """Copies in two layers, one after the other: the second sees what the first left."""
    model = build("mlp").double()
    for layer in (model.fc1, model.fc2):
        for tensor in (layer.weight, layer.bias):
            tensor[3] = 2 * tensor[0]
            tensor[6] = 0.5 * tensor[1]
    cut, receipt = merged(model, {"fc1": [3, 1], "fc2": [0, 6]})
    torch.testing.assert_close(cut(images(3).double()), model(images(3).double()))
    assert [r.left for r in receipt.repairs] == pytest.approx([0, 0], abs=1e-12)


@torch.no_grad()
def test_a_selecting_consumer_takes_over_what_it_reads_itself() -> None:
    model = build("flatten").double()
    for tensor in (model.conv1.weight, model.conv1.bias):
        tensor[4] = 3 * tensor[1]
    dropped = [16 + 5, 64 + 9]  # position 5 of channel 1 and 9 of channel 4
    groups = find_groups(model, images(1).double())
    replay_(model, plan_units(groups, {"fc1.features": dropped}))
    cut, receipt = merged(model, {"conv1": [4]})
    x = images(3).double()
    expected = copy.deepcopy(model)
    layer = expected.get_submodule("fc1")
    layer.weight[:, layer.index == 64 + 5] = 0  # its partner's position is not read
    torch.testing.assert_close(cut(x), expected(x))
    W = model.get_submodule("fc1").weight[:, -15:]
    lost = float(W[:, 5].square().sum() / W.square().sum())
    assert receipt.repairs[0].left == pytest.approx(lost)


REASONS = {
    "residual": ("stem", "'stem' not merged: stem and conv2 make them together"),
    "concat": ("a", "the norm 'norm' does not follow 'a' directly"),
    "depthwise": ("expand", "'deep' filters each channel by itself"),
    "grouped": ("conv1", "a unit is several channels"),
    "mlp": ("fc1.inputs", "no module makes them"),
    "token": ("embed", "'norm' .LayerNorm. depends on each input's own mean"),
    "prelu": ("conv1", "the slopes of 'act1' differ between channels"),
}


@pytest.mark.parametrize("net", REASONS)
def test_what_cannot_be_merged_says_why(net: str) -> None:
    model = build(net)
    if net == "prelu":
        with torch.no_grad():
            model.act1.weight[2] = 0.1
    group, reason = REASONS[net]
    cut, receipt = merged(model, {group: [0]})
    groups = find_groups(model, images(1))
    assert {r.module for r in receipt.repairs} == {m.module for m in groups[group].consumers}
    for repair in receipt.repairs:
        assert repair.left is None
        assert repair.reason.startswith(f"channels of '{group}' not merged")
    import re

    assert re.search(reason, receipt.repairs[0].reason)
    plain = replay_(copy.deepcopy(model), receipt.plan)
    assert all(torch.equal(t, cut.state_dict()[n]) for n, t in plain.state_dict().items())


def test_norms_without_running_statistics_cannot_be_folded() -> None:
    model = build("plain")
    model.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    _, receipt = merged(model, {"conv1": [0]})
    assert "'bn1' has no running statistics" in receipt.repairs[0].reason


def test_norms_without_scale_and_shift() -> None:
    model = build("plain")
    model.bn1 = nn.BatchNorm2d(8, affine=False)
    _, receipt = merged(model, {"conv1": [0]})
    assert receipt.repairs[0].reason == ""


@torch.no_grad()
@pytest.mark.parametrize("net", NETS)
def test_on_every_network_a_share_or_a_reason(net: str) -> None:
    model = build(net)
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {g.name: [0] for g in groups.values()})
    cut = copy.deepcopy(model)
    for repair in apply_(cut, plan, groups=groups, compensate="merge").repairs:
        assert (repair.left is None) == bool(repair.reason)
        assert repair.left is None or 0 <= repair.left <= 1
    assert cut(images(2)).shape == model(images(2)).shape
    assert mask_(copy.deepcopy(model), plan)(images(2)).isfinite().all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [({"conv9": Edit(8, (0,))}, "no such group"), ({"conv1": Edit(9, (0,))}, "has 8 units")],
)
def test_a_plan_for_other_groups_is_refused(edit: dict[str, Edit], message: str) -> None:
    model = build("plain")
    with pytest.raises(PlanError, match=message):
        apply_(model, Plan(edit), groups=find_groups(model, images(1)), compensate="merge")
