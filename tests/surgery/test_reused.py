"""Repair, cut, undo and reload of modules that run several times: one weight, fitted to all."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.export import export_model, save_weights
from prunus.graph import Groups, find_groups
from prunus.plan import Plan, plan_units
from prunus.statistics import collect
from prunus.surgery import Receipt, apply_, replay_, undo_
from prunus.surgery.optimiser import cut_state_
from prunus.surgery.receipt import tensors_of
from prunus.surgery.repair.layerwise import refit_
from prunus.surgery.repair.ridge import Target, refit_weight_
from tests.conftest import randomise_norms_
from tests.graph import reused
from tests.graph.nets import batches
from tests.statistics.oracles import batches64, inputs_of

TINY = 1e-10


def shared_fit(
    Xs: list[Tensor], Ts: list[Tensor], W: Tensor, ridge: float, biases: list[int | None]
) -> tuple[Tensor, list[Tensor]]:
    """argmin over V and b of Σ_c ‖X_c V + b_c − T_c‖² + ‖R^½(V − W)‖², by stacked least squares.

    `biases[c]` numbers the bias of call c; None where it has none.
    """
    x, t = [], []
    for c, (X, T) in enumerate(zip(Xs, Ts, strict=True)):
        same = [k for k, b in enumerate(biases) if b is not None and b == biases[c]]
        x.append(X - torch.cat([Xs[k] for k in same]).mean(0) if same else X)
        t.append(T - torch.cat([Ts[k] for k in same]).mean(0) if same else T)
    X, T = torch.cat(x), torch.cat(t)
    R = ridge * X.square().sum(0)
    R = R + 1e-9 * R.mean() + 1e-30
    A, B = torch.cat([X, torch.diag(R.sqrt())]), torch.cat([T, R.sqrt()[:, None] * W])
    V = torch.linalg.lstsq(A, B, driver="gelsd").solution
    means = []
    for c in range(len(Xs)):
        same = [k for k, b in enumerate(biases) if b is not None and b == biases[c]]
        rest = torch.cat([Ts[k] - Xs[k] @ V for k in same or [c]]).mean(0)
        means.append(rest if same else torch.zeros_like(rest))
    return V, means


def samples(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return inputs and targets of three calls whose means are far apart."""
    torch.manual_seed(seed)
    Xs = [torch.randn(n, 9).double() + shift for n, shift in ((150, 0.5), (200, -2.0), (120, 4.0))]
    return Xs, [X[:, :4] + torch.randn(len(X), 4).double() + 3 * c for c, X in enumerate(Xs)]


@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
@pytest.mark.parametrize("bias", [True, False])
def test_one_weight_for_all_calls_is_the_regression_over_all(bias: bool, ridge: float) -> None:
    Xs, Ts = samples(0)
    linear = nn.Linear(9, 4, bias=bias).double()
    W = torch.randn(4, 9).double()
    with torch.no_grad():
        earlier = [(X, Target(T)) for X, T in zip(Xs[:-1], Ts[:-1], strict=True)]
        left = refit_weight_(
            linear, Xs[-1], Target(Ts[-1]), ridge=ridge, earlier=earlier, towards=W
        )
    V, b = shared_fit(Xs, Ts, W.T, ridge, [0 if bias else None] * 3)
    torch.testing.assert_close(linear.weight.detach().T, V, rtol=1e-6, atol=1e-8)
    if bias:
        torch.testing.assert_close(linear.bias.detach(), b[0], rtol=1e-6, atol=1e-8)
    error = sum(float((X @ V + b[0] - T).square().sum()) for X, T in zip(Xs, Ts, strict=True))
    T = torch.cat(Ts)
    whole = float((T - T.mean(0) * bias).square().sum())
    assert left == pytest.approx(error / whole, rel=1e-6)


def test_each_norm_takes_the_mean_of_its_own_call() -> None:
    """A call without a norm, then two with one each; the last shuts output 2 off, both 3."""
    Xs, Ts = samples(1)
    conv = nn.Conv2d(9, 4, 1, bias=False).double()
    norms = [randomise_norms_(nn.BatchNorm2d(4).double().eval(), seed) for seed in (0, 1)]
    with torch.no_grad():
        norms[0].weight[3] = norms[1].weight[3] = norms[1].weight[2] = 0
    bare = conv.weight.detach()[:, :, 0, 0].T.clone()
    means = [n.running_mean.clone() for n in norms]
    gains = [n.weight.detach() / (n.running_var + n.eps).sqrt() for n in norms]
    calls = [(X, Target(T, norm)) for X, T, norm in zip(Xs, Ts, [None, *norms], strict=True)]
    with torch.no_grad():
        refit_weight_(conv, *calls[-1], ridge=1e-9, earlier=calls[:-1])
        made = [n(conv(X[..., None, None]))[..., 0, 0] for n, X in zip(norms, Xs[1:], strict=True)]
    zs = [Ts[0]]
    for X, T, norm, gain in zip(Xs[1:], Ts[1:], norms, gains, strict=True):
        z = (T - norm.bias.detach()) / torch.where(gain == 0, 1.0, gain)
        zs.append(torch.where(gain == 0, X @ bare, z))  # what is shut off asks for nothing
    V, b = shared_fit(Xs, zs, bare, 1e-9, [None, 1, 2])
    torch.testing.assert_close(conv.weight[:, :, 0, 0].detach().T, V, rtol=1e-6, atol=1e-7)
    for c, (norm, gain) in enumerate(zip(norms, gains, strict=True)):
        live = gain != 0
        y = gain * (Xs[c + 1] @ V + b[c + 1]) + norm.bias.detach()
        torch.testing.assert_close(made[c][:, live], y[:, live], rtol=1e-6, atol=1e-7)
        assert torch.equal(norm.running_mean[~live], means[c][~live])


def test_what_no_call_lets_through_keeps_its_weight() -> None:
    Xs, Ts = samples(2)
    conv, norm = nn.Conv2d(9, 4, 1, bias=False).double(), nn.BatchNorm2d(4).double().eval()
    with torch.no_grad():
        norm.weight[1] = 0
        before = conv.weight.clone()
        refit_weight_(
            conv, Xs[1], Target(Ts[1], norm), ridge=1e-3, earlier=[(Xs[0], Target(Ts[0], norm))]
        )
    assert torch.equal(conv.weight[1].detach(), before[1])
    assert not torch.equal(conv.weight[0].detach(), before[0])
    assert norm.running_mean[1] == 0


def test_what_a_relu_hides_in_one_call_costs_nothing_there() -> None:
    Xs, Ts = samples(3)
    Ts = [T.abs() - 2 for T in Ts]

    def error(rectified: bool) -> float:
        torch.manual_seed(0)
        linear = nn.Linear(9, 4).double()
        with torch.no_grad():
            earlier = [(Xs[0], Target(Ts[0], rectified=rectified))]
            refit_weight_(linear, Xs[1], Target(Ts[1]), ridge=1e-9, earlier=earlier)
            hidden = (F.relu(linear(Xs[0])) - F.relu(Ts[0])).square().sum()
            return float(hidden + (linear(Xs[1]) - Ts[1]).square().sum())

    assert error(rectified=True) < 0.98 * error(rectified=False)


def calibration() -> list[tuple[Tensor, Tensor]]:
    return batches64(6, 16)


def plan_of(groups: Groups) -> Plan:
    """Remove a third of every group."""
    return plan_units(groups, {g.name: list(range(0, g.units, 3)) for g in groups.values()})


def test_pointwise_repair_sums_the_moments_of_all_calls() -> None:
    """Two calls with a norm each: no bias can take both means, so they are part of the fit."""
    model, loader = reused.build("level"), calibration()
    model.a = nn.Conv2d(5, 6, 1, bias=False).double()
    groups = find_groups(model, loader[0][0][:1])
    gone, kept = [0, 3], [1, 2, 4]
    plan = plan_units(groups, {"b1": gone})
    x = torch.cat(inputs_of(model, loader, "a")).transpose(0, 1).flatten(1).T  # of both calls
    small = copy.deepcopy(model)
    receipt = apply_(small, plan, collect(model, loader, groups), ridge=TINY)
    target = x @ model.a.weight.detach()[:, :, 0, 0].T
    V = torch.linalg.lstsq(x[:, kept], target, driver="gelsd").solution
    torch.testing.assert_close(small.a.weight.detach()[:, :, 0, 0].T, V, rtol=1e-4, atol=1e-6)
    for name in ("norm1", "norm2"):
        one, other = small.get_submodule(name), model.get_submodule(name)
        assert torch.equal(one.running_mean, other.running_mean)
    repair = next(r for r in receipt.repairs if r.module == "a")
    lost = float((x[:, kept] @ V - target).square().sum())
    own = x[:, gone] @ model.a.weight.detach()[:, gone, 0, 0].T
    assert repair.left == pytest.approx(lost / float(own.square().sum()), rel=1e-4)


def test_filters_whose_results_go_two_ways_are_not_merged() -> None:
    """The norm behind one call says nothing of the other: folding it in would be wrong there."""
    model, loader = reused.build("siamese"), calibration()
    groups = find_groups(model, loader[0][0][:1], inputs=False)
    plan, before = plan_units(groups, {"a": [0, 2]}), model.head.weight.detach().clone()
    receipt = apply_(model, plan, groups=groups, compensate="merge")
    assert ["'norm' does not follow 'a' directly" in r.reason for r in receipt.repairs] == [True]
    kept = [c for c in range(12) if c % 6 not in (0, 2)]
    assert torch.equal(model.head.weight.detach(), before[:, kept])


class Smooth(reused.Siamese):
    """Without a ReLU behind `a` the refit is one regression, and can be written down.

    The first call's result is added to the image: never, at once, or after the second call.
    """

    when = "never"

    def forward(self, x: Tensor) -> Tensor:
        image = x[:, :1].expand(-1, 6, -1, -1)
        u = self.norm(self.a(F.relu(self.left(x))))
        u = u + image if self.when == "at once" else u
        v = self.a(F.relu(self.right(x)))
        u = u + image if self.when == "later" else u
        return self.head(torch.cat([torch.tanh(u), torch.tanh(v)], 1).mean((2, 3)))


@pytest.mark.parametrize("when", ["never", "at once", "later"])
def test_refit_of_two_calls_is_the_regression_over_both(when: str) -> None:
    """Nothing is cut before `left` and `right`, so both calls read what the dense ones do."""
    torch.manual_seed(0)
    model, loader = randomise_norms_(Smooth()).double().eval(), calibration()
    model.when = when
    groups = find_groups(model, loader[0][0][:1], inputs=False)
    gone = [1, 2, 6]
    kept = [c for c in range(8) if c not in gone]
    plan = plan_units(groups, {"left": gone})
    small = replay_(copy.deepcopy(model), plan)
    old = small.a.weight.detach().flatten(1).T.clone()
    x = torch.cat([x for x, _ in loader])
    with torch.no_grad():
        maps = [F.relu(m(x)) for m in (model.left, model.right)]
        T = [model.a(m).transpose(0, 1).flatten(1).T for m in maps]
        X = [F.unfold(m[:, kept], 3, padding=1).transpose(1, 2).flatten(0, 1) for m in maps]
    repairs = refit_(small, model, groups, plan, loader, ridge=1e-2)
    V, b = shared_fit(X, T, old, 1e-2, [0, None])
    torch.testing.assert_close(small.a.weight.detach().flatten(1).T, V, rtol=1e-6, atol=1e-8)
    shift = model.norm.running_mean - small.norm.running_mean
    torch.testing.assert_close(shift, b[0], rtol=1e-6, atol=1e-8)
    repair = next(r for r in repairs if r.module == "a")
    error = sum(float((X[c] @ V + b[c] - T[c]).square().sum()) for c in (0, 1))
    whole = (T[0] - T[0].mean(0)).square().sum() + T[1].square().sum()
    assert repair.left == pytest.approx(error / float(whole), rel=1e-6)
    assert len(repairs) == len({r.module for r in repairs})


def test_what_lies_behind_is_fitted_to_the_last_weights() -> None:
    """The head is the regression on what the repaired network, and no earlier one, gives it."""
    model, loader = reused.build("level"), calibration()
    groups = find_groups(model, loader[0][0][:1])
    plan = plan_of(groups)
    small = replay_(copy.deepcopy(model), plan)
    refit_(small, model, groups, plan, loader, ridge=TINY)
    X, aim = (torch.cat(inputs_of(net, loader, "head")) for net in (small, model))
    with torch.no_grad():
        T = model.head(aim)
    ones = torch.cat([X, torch.ones(len(X), 1).double()], 1)
    V = torch.linalg.lstsq(ones, T, driver="gelsd").solution
    torch.testing.assert_close(small.head.weight.detach().T, V[:-1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(small.head.bias.detach(), V[-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compensate", ["patch", "joint"])
@pytest.mark.parametrize("net", reused.NETS)
def test_every_net_comes_closer_to_the_dense_one(net: str, compensate: str) -> None:
    model, loader = reused.build(net), calibration()
    groups = find_groups(model, loader[0][0][:1], inputs=False)
    plan = plan_of(groups)
    x = torch.cat([x for x, _ in batches64(2, 32, seed=5)])

    def error(kind: str) -> float:
        small = copy.deepcopy(model)
        receipt = apply_(
            small, plan, groups=groups, loader=loader, compensate=kind, batchnorm="never"
        )
        assert all(not r.reason for r in receipt.repairs)
        with torch.no_grad():
            return float((small(x) - model(x)).square().sum())

    assert error(compensate) < 0.5 * error("none")


def test_too_few_samples_are_counted_over_all_calls() -> None:
    model = reused.build("siamese")
    groups = find_groups(model, batches64(1, 1)[0][0], inputs=False)
    plan = plan_units(groups, {"left": [0]})  # `a` keeps 7·9 features: 100 samples a call

    def repairs(side: int) -> dict[str, str]:
        loader = [(batches64(1, 1)[0][0][..., :side, :side], torch.zeros(1).long())]
        small = replay_(copy.deepcopy(model), plan)
        return {r.module: r.reason for r in refit_(small, model, groups, plan, loader)}

    assert repairs(10)["a"] == ""  # 200 samples for 63 features: one call alone has too few
    assert "98 samples are too few to refit 63 features" in repairs(7)["a"]


@pytest.mark.parametrize("net", reused.NETS)
def test_sharing_survives_cut_save_reload_and_undo(net: str, tmp_path: Path) -> None:
    dense, loader = reused.build(net), calibration()
    model, x = copy.deepcopy(dense), loader[0][0]
    groups = find_groups(model, x[:1], inputs=False)
    names = list(model.state_dict())
    receipt = apply_(model, plan_of(groups), loader=loader, groups=groups)
    assert list(model.state_dict()) == names  # each shared tensor under its one name
    (tmp_path / "plan.json").write_text(receipt.plan.to_json())
    save_weights(model, tmp_path / "model.safetensors")
    again = prunus.load(tmp_path, model=reused.build(net, seed=9))
    modules = list(again.named_modules(remove_duplicate=False))
    assert len(modules) == len({id(m) for _, m in modules})
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    receipt.save(tmp_path / "receipt.safetensors")
    undo_(again, Receipt.load(tmp_path / "receipt.safetensors"))
    assert all(torch.equal(t, dense.state_dict()[n]) for n, t in again.state_dict().items())


def test_export(tmp_path: Path) -> None:
    model = reused.build("level").float()
    x = batches(1, 4)[0][0]
    groups = find_groups(model, x[:1], inputs=False)
    apply_(model, plan_of(groups))
    assert export_model(model, x, tmp_path / "model.onnx", "onnx").images == 4


def test_an_optimiser_trains_the_shared_weight_once() -> None:
    model, (x, y) = reused.build("level"), batches64(1, 8)[0]
    groups = find_groups(model, x[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    momentum = optimizer.state[model.a.weight]["momentum_buffer"].clone()
    before, plan = tensors_of(model), plan_units(groups, {"b1": [1, 2]})
    replay_(model, plan)
    assert cut_state_(optimizer, before, model, plan) == []
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert sum(p is model.a.weight for p in trained) == 1
    assert len(trained) == len(list(model.parameters()))
    kept = optimizer.state[model.a.weight]["momentum_buffer"]
    assert torch.equal(kept, momentum[:, [0, 3, 4]])
