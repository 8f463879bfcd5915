"""The layer-by-layer refit against least squares on the samples, and what it must not touch."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.batches import Inputs
from prunus.core.errors import DataError
from prunus.graph import find_groups
from prunus.plan import Edit, Plan, plan_units
from prunus.surgery import apply_, replay_
from prunus.surgery.repair import consumers
from prunus.surgery.repair.layerwise import refit_
from prunus.surgery.repair.ridge import ROUNDS, Target, refit_weight_
from tests.conftest import random_plan, randomise_norms_
from tests.graph.nets import NETS, batches, build, images


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    return replay_(copy.deepcopy(model), plan)


def slow_fit(X: Tensor, T: Tensor, W: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """argmin over V, b of ‖XV + b − T‖² + ‖R^½(V − W)‖², by stacked least squares."""
    x, t = X - X.mean(0), T - T.mean(0)
    R = ridge * x.square().sum(0)
    R = R + 1e-9 * R.mean() + 1e-30
    A = torch.cat([x, torch.diag(R.sqrt())])
    B = torch.cat([t, R.sqrt()[:, None] * W])
    V = torch.linalg.lstsq(A, B, driver="gelsd").solution
    return V, T.mean(0) - X.mean(0) @ V


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_weight_is_ridge_regression_towards_the_old_one(groups: int, ridge: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=groups).double()
    old = conv.weight.detach().clone()
    X, T = torch.randn(200, 36).double() + 0.5, torch.randn(200, 6).double()
    T += X[:, :6]
    with torch.no_grad():
        left = refit_weight_(conv, X, Target(T), ridge=ridge)
    whole = 0.0
    for g in range(groups):
        f = slice(g * 36 // groups, (g + 1) * 36 // groups)
        o = slice(g * 6 // groups, (g + 1) * 6 // groups)
        V, b = slow_fit(X[:, f], T[:, o], old[o].flatten(1).T, ridge)
        torch.testing.assert_close(conv.weight[o].flatten(1).T.detach(), V, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(conv.bias[o].detach(), b, rtol=1e-7, atol=1e-9)
        whole += float((X[:, f] @ V + b - T[:, o]).square().sum())
    assert left == pytest.approx(whole / float((T - T.mean(0)).square().sum()), rel=1e-9)


def test_a_norm_takes_the_bias_and_keeps_dead_outputs() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 1, bias=False).double(), nn.BatchNorm2d(4).double().eval()
    randomise_norms_(norm)
    with torch.no_grad():
        norm.weight[2] = 0
    before = conv.weight.detach().clone()
    mean = norm.running_mean.clone()
    X, other = torch.randn(300, 3).double(), torch.randn(300, 4).double()
    T = torch.randn(300, 4).double()
    with torch.no_grad():
        refit_weight_(conv, X, Target(T, norm, other), ridge=1e-9)
        y = norm(conv(X[:, :, None, None]))[..., 0, 0] + other
    ones = torch.cat([X, torch.ones(300, 1).double()], 1)
    live = [0, 1, 3]
    fitted = ones @ torch.linalg.lstsq(ones, (T - other)).solution + other
    torch.testing.assert_close(y[:, live], fitted[:, live], atol=1e-6, rtol=0)
    assert torch.equal(conv.weight[2].detach(), before[2])
    assert norm.running_mean[2] == mean[2]


def test_what_a_relu_hides_costs_nothing() -> None:
    """Each round lowers ‖relu(T) − relu(y)‖², the error behind the ReLU."""
    torch.manual_seed(0)
    X = torch.randn(500, 5).double()
    T = (X @ torch.randn(5, 3).double()).abs() * 2 - 3 + 0.3 * torch.randn(500, 3).double()

    def error(rectified: bool) -> float:
        linear = nn.Linear(5, 3).double()
        with torch.no_grad():
            refit_weight_(linear, X, Target(T, rectified=rectified), ridge=1e-9)
            return float((linear(X).relu() - T.relu()).square().sum())

    assert ROUNDS > 1
    assert error(rectified=True) < 0.9 * error(rectified=False)


class Residual(nn.Module):
    """A stem, and a block that is added to its input; then a consumer of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.head(F.relu(out).mean((2, 3)))


def residual() -> Residual:
    torch.manual_seed(1)
    return randomise_norms_(Residual()).double().eval()


def loader() -> list[tuple[Tensor, Tensor]]:
    return [(x.double(), y) for x, y in batches(6, 16)]


def stream_of(model: Residual, x: Tensor) -> Tensor:
    """What the head sees before pooling."""
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def test_drift_of_a_residual_stream_is_corrected() -> None:
    """The stem loses channels its consumer conv2 can put back into the sum."""
    model = residual()
    x = torch.cat([x for x, _ in loader()])
    groups = find_groups(model, x[:1])
    plan = plan_units(groups, {"conv1": [0, 3, 5]})
    small = cut(model, plan)
    before = (stream_of(small, x) - stream_of(model, x)).square().mean()
    repairs = refit_(small, model, groups, plan, loader())
    after = (stream_of(small, x) - stream_of(model, x)).square().mean()
    assert [r.module for r in repairs] == ["conv2", "head"]
    assert all(0 <= r.left <= 1 for r in repairs)
    assert after < 0.3 * before


def test_the_sum_behind_a_consumer_is_its_target() -> None:
    """One round by hand: conv2 against (bn2 + x)_dense − x_cut, taken back through bn2."""
    model = residual()
    model.bn2.register_forward_hook(lambda m, a, y: y * 1.0)  # no ReLU to be told from the sum
    x = torch.cat([x for x, _ in loader()])
    groups = find_groups(residual(), x[:1])
    plan = plan_units(groups, {"conv1": [1, 2]})
    small = cut(residual(), plan)
    with torch.no_grad():  # the stream drifts
        small.stem.bias += 0.1
        s_dense, s_cut = F.relu(residual().stem(x)), F.relu(small.stem(x))
        dense = residual()
        z = dense.bn2(dense.conv2(F.relu(dense.bn1(dense.conv1(s_dense)))))
        inside = F.relu(small.bn1(small.conv1(s_cut)))
        X = F.unfold(inside, 3, padding=1).transpose(1, 2).flatten(0, 1)
        other = s_cut.flatten(2).transpose(1, 2).flatten(0, 1)
        T = (z + s_dense).flatten(2).transpose(1, 2).flatten(0, 1)
        by_hand = copy.deepcopy(small)
        target = Target(T, by_hand.bn2, other, rectified=True)
        refit_weight_(by_hand.conv2, X, target, ridge=1e-3)
    refit_(small, residual(), groups, plan, loader())
    torch.testing.assert_close(small.conv2.weight, by_hand.conv2.weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(small.bn2.running_mean, by_hand.bn2.running_mean)


@pytest.mark.parametrize("net", NETS)
def test_every_net_comes_closer_to_the_dense_one(net: str) -> None:
    model = build(net)
    groups = find_groups(model, images(1))
    plan = random_plan(groups, seed=1)
    x = torch.cat([x for x, _ in batches(6, 16)])
    small = cut(model, plan)
    modes = [m.training for m in small.modules()]
    with torch.no_grad():
        dense, before = model(x), small(x)
    weights = copy.deepcopy(model.state_dict())
    refit_(small, model, groups, plan, batches(6, 16))
    assert [m.training for m in small.modules()] == modes
    assert all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.modules())
    with torch.no_grad():
        assert (small(x) - dense).square().sum() < (before - dense).square().sum()


def test_what_lies_before_the_first_cut_is_left_alone() -> None:
    model = build("mlp")
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {"fc2": [0, 1]})
    small = cut(model, plan)
    repairs = refit_(small, model, groups, plan, batches(6, 16))
    assert [r.module for r in repairs] == ["fc3"]
    assert torch.equal(small.fc1.weight, model.fc1.weight)


class Twice(nn.Module):
    """One module runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.same(self.stem(x).relu()).relu())
        return self.head(x.relu().mean((2, 3)))


def test_a_module_that_runs_twice_is_fitted_once_and_reported_once() -> None:
    model = Twice()
    groups = find_groups(model, images(1))
    plan = Plan({}, {"same": {}, "head": {}})
    assert not refit_(copy.deepcopy(model), model, groups, plan, batches(2))
    plan = Plan({}, {"same": {"in": Edit(6, ())}})
    repairs = refit_(copy.deepcopy(model), model, groups, plan, batches(2))
    assert [r.module for r in repairs] == ["same", "head"]
    assert all(r.left is not None and r.left < 1e-6 for r in repairs)  # nothing was cut


def test_errors_of_either_network_come_out() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    plan = random_plan(groups, seed=1)
    with pytest.raises(DataError, match="gave no batch"):
        refit_(cut(model, plan), model, groups, plan, [])
    broken = copy.deepcopy(model)
    calls = []

    def fail(module: nn.Module, args: object) -> None:
        calls.append(1)
        if len(calls) > 1:  # the first pass only looks
            raise RuntimeError("the dense network broke")

    broken.get_submodule(groups.layers and list(groups.layers)[-1]).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the dense network broke"):
        refit_(cut(model, plan), broken, groups, plan, batches(2))


def test_apply_refits_with_a_loader() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    plan = random_plan(groups, seed=3)
    by_hand = cut(model, plan)
    refit_(by_hand, model, groups, plan, batches(4, 16))
    receipt = apply_(model, plan, loader=batches(4, 16), groups=groups, compensate="patch")
    assert receipt.batchnorms == 0
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def trained_like(model: Residual) -> Residual:
    """Spread conv1's filters apart, so that a cut hurts."""
    with torch.no_grad():
        model.conv1.weight *= 3
    return model


def test_joint_repair_comes_closer_than_patch_repair() -> None:
    model = trained_like(residual()).float()
    x = torch.cat([x for x, _ in batches(6, 16)])
    groups = find_groups(model, x[:1])
    plan = plan_units(groups, {"conv1": [0, 3, 5, 6]})
    errors = {}
    for joint in (False, True):
        small = cut(model, plan)
        made = small.conv1.weight.detach().clone()
        refit_(small, model, groups, plan, batches(6, 16), joint=joint)
        assert torch.equal(small.conv1.weight, made) is not joint
        errors[joint] = float((stream_of(small, x) - stream_of(model, x)).square().mean())
    assert errors[True] < 0.9 * errors[False]


def test_joint_repair_starts_where_patch_repair_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a step nothing changes but by rounding: the nested patches are the true ones."""
    monkeypatch.setattr("prunus.surgery.repair.joint.STEPS", 0)
    model = residual()
    groups = find_groups(model, images(1).double())
    plan = plan_units(groups, {"conv1": [0, 3]})
    nets = [cut(model, plan), cut(model, plan)]
    for small, joint in zip(nets, (False, True), strict=True):
        refit_(small, model, groups, plan, loader(), joint=joint)
    for (name, one), other in zip(
        nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2)])
def test_nested_patches_are_what_the_two_convolutions_compute(strides: tuple[int, int]) -> None:
    from prunus.statistics.sampling import patches
    from prunus.surgery.repair.joint import _nested_patches

    torch.manual_seed(0)
    maker = nn.Conv2d(3, 4, 3, stride=strides[0], padding=1).double()
    consumer = nn.Conv2d(4, 5, 3, stride=strides[1], padding=1, bias=False).double()
    x = torch.randn(6, 3, 9, 8).double()
    with torch.no_grad():
        made = maker(x).relu()
        seen = patches(made, consumer, 7, seed=0)
        U, inside, rows = _nested_patches(maker, consumer, x, seen)
        a = (U @ maker.weight.flatten(1).T + maker.bias).relu() * inside[..., None]
        y = a.transpose(1, 2).flatten(1) @ consumer.weight.flatten(1).T
        flat = consumer(made).flatten(2)
        index = seen.places[:, None].expand(-1, 5, -1)
        expected = flat.gather(2, index).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(y, expected[rows])


@pytest.mark.parametrize(("limit", "taken"), [(256 * 10**9, 1_352), (3 * 10**9, 507), (100, 1)])
def test_images_that_fit_into_what_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, limit: int, taken: int
) -> None:
    """Six maps of 10×111×111 in float32, 3 MB an image, within 4 GB or half the limit."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    convolutions = (nn.Conv2d(1, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 4, 1))
    model = nn.Sequential(*convolutions, *pooled)
    image = torch.zeros(1, 1, 111, 111)
    groups = find_groups(model, image)
    plan = plan_units(groups, {name: [0] for name in groups})
    monkeypatch.setattr(consumers, "memory_limit", lambda: limit)
    count = consumers.find_refitted(model, groups, plan, Inputs.of(image), joint=False)[2]
    assert count == taken
