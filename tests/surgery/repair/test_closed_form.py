"""Closed-form repair against explicit least squares, and where nothing need be lost."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.plan import Plan, make_plan, plan_units
from prunus.statistics import collect
from prunus.surgery import Receipt, apply_, replay_
from tests.graph.nets import batches, build, images

TINY = 1e-10


def repaired(
    model: nn.Module, removed: dict[str, list[int]], ridge: float = TINY, **options: str
) -> tuple[nn.Module, Receipt]:
    groups = find_groups(model, batches(1)[0][0])
    statistics = collect(model, batches(6, 16), groups)
    cut = copy.deepcopy(model)
    receipt = apply_(cut, plan_units(groups, removed), statistics, ridge=ridge, **options)
    return cut, receipt


def calibration() -> Tensor:
    return torch.cat([x for x, _ in batches(6, 16)])


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_consumer_is_the_least_squares_solution(bias: bool) -> None:
    model = build("mlp").double()
    if not bias:
        model.fc3.bias = None
    images64 = calibration().double()
    loader = [(images64, torch.cat([y for _, y in batches(6, 16)]))]
    groups = find_groups(model, images64[:1])
    cut = copy.deepcopy(model)
    removed = [1, 4, 6]
    receipt = apply_(
        cut,
        plan_units(groups, {"fc2": removed}),
        collect(model, loader, groups),
        ridge=TINY,
    )
    with torch.no_grad():
        x = F.relu(model.fc2(F.relu(model.fc1(images64.flatten(1)))))  # (N, 8)
        keep = [i for i in range(8) if i not in removed]
        known = x[:, keep]
        if bias:
            known = torch.cat([known, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        target = x @ model.fc3.weight.T
        V = torch.linalg.lstsq(known, target, driver="gelsd").solution
        fitted = known @ V + (model.fc3.bias if bias else 0)
        torch.testing.assert_close(cut(images64), fitted, atol=1e-6, rtol=0)
    residual = float((target - known @ V).square().sum())
    gone = x[:, removed] @ model.fc3.weight.detach()[:, removed].T
    if bias:
        gone = gone - gone.mean(0)
    repair = next(r for r in receipt.repairs if r.module == "fc3")
    assert repair.left == pytest.approx(residual / float(gone.square().sum()), rel=1e-4)


def test_ridge_is_the_ridge_of_standardised_features() -> None:
    model = build("mlp").double()
    x64 = calibration().double()
    groups = find_groups(model, x64[:1])
    statistics = collect(model, [(x64, torch.cat([y for _, y in batches(6, 16)]))], groups)
    cut = copy.deepcopy(model)
    apply_(cut, plan_units(groups, {"fc2": [0, 1]}), statistics, ridge=0.3)
    scatter = statistics["fc3"]
    X = scatter.S
    keep, gone = list(range(2, 8)), [0, 1]
    penalty = 0.3 * torch.diag(X.diagonal()[keep])
    A = X[gone][:, keep] @ torch.linalg.pinv(X[keep][:, keep] + penalty)
    W = model.fc3.weight.detach()
    torch.testing.assert_close(cut.fc3.weight.detach(), W[:, keep] + W[:, gone] @ A)
    shift = W[:, gone] @ (scatter.mean[gone] - A @ scatter.mean[keep])
    torch.testing.assert_close(cut.fc3.bias.detach(), model.fc3.bias.detach() + shift)


class ConsumerNet(nn.Module):
    """`made` channels, of which the last is to be an affine mix of others; then one consumer."""

    def __init__(self, consumer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.maker = nn.Conv2d(3, 5, 3)
        self.consumer = consumer
        self.norm = norm or nn.Identity()
        width = getattr(consumer, "out_channels", None) or consumer.out_features
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maker(x)
        if isinstance(self.consumer, nn.Linear):
            return self.head(self.norm(self.consumer(x.flatten(1))).relu())
        return self.head(self.norm(self.consumer(x)).relu().mean((2, 3)))


def depend_(model: ConsumerNet, offset: float) -> ConsumerNet:
    """Make channel 4 = 0.7·channel 1 − 0.4·channel 2 + offset."""
    with torch.no_grad():
        for tensor in (model.maker.weight, model.maker.bias):
            tensor[4] = 0.7 * tensor[1] - 0.4 * tensor[2]
        model.maker.bias[4] += offset
    return model


def trained_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(6)
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor.uniform_(0.5, 1.5)
    return norm


CONSUMERS: dict[str, Callable[[], ConsumerNet]] = {
    "1×1": lambda: ConsumerNet(nn.Conv2d(5, 6, 1)),
    "3×3": lambda: ConsumerNet(nn.Conv2d(5, 6, 3)),
    "3×3, no bias, norm": lambda: ConsumerNet(nn.Conv2d(5, 6, 3, bias=False), trained_norm()),
    "flattened": lambda: ConsumerNet(nn.Linear(5 * 64, 6)),
    "transposed 1×1": lambda: ConsumerNet(nn.ConvTranspose2d(5, 6, 1)),
    "transposed 2×2, stride 2": lambda: ConsumerNet(nn.ConvTranspose2d(5, 6, 2, stride=2)),
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_a_dependent_channel_goes_without_loss(kind: str) -> None:
    torch.manual_seed(0)
    # A transposed convolution with overlapping or strided taps adds its shift tap by tap; a
    # shift is exact there too as long as every output is reached by equally many taps.
    offset = 0.0 if kind == "transposed 2×2, stride 2" else 0.9
    model = depend_(CONSUMERS[kind](), offset).eval()
    cut, receipt = repaired(model, {"maker": [4]}, ridge=1e-9)
    plain, _ = repaired(model, {"maker": [4]}, compensate="none")
    x = calibration()
    with torch.no_grad():
        scale = float(model(x).abs().max())
        lost = float((plain(x) - model(x)).abs().max()) / scale
        error = float((cut(x) - model(x)).abs().max()) / scale
    assert lost > 1e-2
    assert error < 2e-4
    assert receipt.repairs[0].module == "consumer"
    assert receipt.repairs[0].left == pytest.approx(0, abs=1e-5)


def test_without_bias_or_norm_the_mean_is_part_of_the_fit() -> None:
    torch.manual_seed(0)
    model = depend_(ConsumerNet(nn.Conv2d(5, 6, 1, bias=False)), 0.0).eval()
    cut, receipt = repaired(model, {"maker": [4]}, ridge=1e-9)
    x = calibration()
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), atol=1e-4, rtol=1e-4)
    assert receipt.repairs[0].left == pytest.approx(0, abs=1e-5)
    # With an offset, the best fit through the origin is least squares without an intercept.
    model = depend_(model, 0.9)
    cut, _ = repaired(model, {"maker": [4]}, ridge=1e-9)
    with torch.no_grad():
        made = model.maker(x).movedim(1, -1).reshape(-1, 5).double()
        W = model.consumer.weight[:, :, 0, 0].double()
        V = torch.linalg.lstsq(made[:, :4], made @ W.T).solution
        expected = V.T.float()[:, :, None, None]
        torch.testing.assert_close(cut.consumer.weight, expected, atol=1e-4, rtol=1e-3)


def test_a_norm_without_running_statistics_needs_no_shift() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, track_running_stats=False)
    model = depend_(ConsumerNet(nn.Conv2d(5, 6, 3, bias=False), norm), 0.9).eval()
    cut, _ = repaired(model, {"maker": [4]}, ridge=1e-9)
    x = calibration()
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), atol=1e-4, rtol=1e-3)


def test_depthwise_consumers_say_why_they_are_left() -> None:
    _, receipt = repaired(build("depthwise"), {"expand": [0, 3]}, ridge=1e-3)
    deep, point = receipt.repairs
    assert (deep.module, deep.left) == ("deep", None)
    assert "a depthwise convolution mixes no channels" in deep.reason
    assert (point.module, point.reason) == ("point", "")
    assert point.left is not None


def test_a_cut_network_is_repaired_over_what_it_still_reads() -> None:
    model = build("flatten")
    groups = find_groups(model, images(1))
    replay_(model, plan_units(groups, {"fc1.features": list(range(0, 80, 7))}))
    features = find_groups(model, images(1))["fc1.features"].units
    removed = {"conv1": [2], "fc1.features": [0, 5, features - 1]}
    cut, receipt = repaired(model, removed, ridge=1e-3)
    plain, _ = repaired(model, removed, compensate="none")
    x = calibration()
    with torch.no_grad():
        dense = model(x)
        assert (cut(x) - dense).square().mean() < (plain(x) - dense).square().mean()
    assert 0 <= receipt.repairs[0].left <= 1


@pytest.mark.parametrize("net", ["plain", "residual", "concat", "depthwise", "transposed", "token"])
def test_receipt(net: str) -> None:
    model = build(net)
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {g.name: [0, g.units - 1] for g in groups.values()})
    cut = copy.deepcopy(model)
    receipt = apply_(cut, plan, collect(model, batches(6, 16), groups))
    assert receipt.params == tuple(sum(p.numel() for p in m.parameters()) for m in (model, cut))
    consumers = {m.module for g in groups.values() for m in g.consumers} - {"deep"}
    assert {r.module for r in receipt.repairs} - {"deep"} == consumers
    for repair in receipt.repairs:
        assert repair.left is None or 0 <= repair.left <= 1
        assert (repair.left is None) == bool(repair.reason)
    first = groups.entries[0]
    assert receipt.channels[first.name]["out"] == (first.units, first.units - 2)
    assert receipt.batchnorms == 0


def test_repair_leaves_frozen_parameters_frozen() -> None:
    model = build("residual")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    cut, _ = repaired(model, {"stem": [0, 3], "conv1": [1]}, ridge=1e-3)
    assert not any(p.requires_grad for p in cut.parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_repair_lowers_the_error_on_digits() -> None:
    from prunus.data import load_data
    from prunus.models import MODELS

    assert "lenet5" in MODELS
    torch.manual_seed(0)
    data = load_data("digits", seed=0)
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    train = list(data.train)
    for x, y in train:
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.eval()
    calibrated = list(data.calibration)
    groups = find_groups(model, calibrated[0][0][:1])
    statistics = collect(model, calibrated, groups)
    plan = make_plan(groups, score(groups, statistics, "random"), "macs=40%", allocation="uniform")
    x = torch.cat([x for x, _ in data.test])
    error = {}
    for compensate in ("none", "pointwise"):
        cut = copy.deepcopy(model)
        apply_(cut, plan, statistics, compensate=compensate)
        with torch.no_grad():
            error[compensate] = float((cut(x) - model(x)).square().mean())
    assert error["pointwise"] < 0.5 * error["none"]


def test_an_empty_plan_changes_nothing() -> None:
    model = build("plain")
    before = copy.deepcopy(model.state_dict())
    groups = find_groups(model, images(1))
    receipt = apply_(model, Plan(), collect(model, batches(), groups))
    assert receipt.repairs == ()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_constant_inputs_that_are_not_zero_neither_break_nor_bend_the_repair() -> None:
    """MNIST's border pixels: once normalised, they are the same number, not 0, in every image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 40, generator=generator) * torch.linspace(1e-3, 1, 40)
    x[:, 10:30] = torch.tensor([-0.4242, 1.7, 0.1]).repeat(7)[:20]
    data = [(part, torch.arange(len(part)) % 3) for part in x.split(128)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3))
    groups = find_groups(model, x[:1])
    statistics = collect(model, data, groups)
    assert statistics["0"].constant.tolist() == [10 <= i < 30 for i in range(40)]
    gone = [*range(12, 25), 3]  # constants and one that varies
    cut = copy.deepcopy(model)
    receipt = apply_(cut, plan_units(groups, {"0.inputs": gone}), statistics)
    assert receipt.repairs[0].left is not None
    kept = [i for i in range(40) if i not in gone]
    old, new = model[0], cut[0]
    varying = [i for i, p in enumerate(kept) if not 10 <= p < 30]
    bent = new.weight[:, varying] - old.weight[:, [kept[i] for i in varying]]
    assert float((bent.detach() * x[:, [kept[i] for i in varying]].std(0)).abs().max()) < 1e-2
    given = old.weight[:, 12:25] @ x[0, 12:25]  # what the constants gave is in the bias now
    torch.testing.assert_close(new.bias - old.bias, given, atol=1e-3, rtol=0)
