"""Tracing against an explicit transposed-convolution oracle, written layer by layer."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import ConfigError, DataError
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.statistics import Traces, collect, trace_utility
from prunus.statistics.traces import RECTIFIERS
from tests.graph.nets import batches, build, images

KEPT = [0, 2, 3, 5]


def up(z: Tensor, conv: nn.Conv2d, like: Tensor) -> Tensor:
    """Return F^T z: the reversed convolution, of the size of what the convolution read."""
    stride, padding, kernel = conv.stride[0], conv.padding[0], conv.kernel_size[0]
    lost = like.shape[2] - ((z.shape[2] - 1) * stride - 2 * padding + kernel)
    return F.conv_transpose2d(z, conv.weight, stride=stride, padding=padding, output_padding=lost)


def norm(z: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """Return a norm's scale, the transpose of a diagonal, times z."""
    return z * (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, -1, 1, 1)


def expected(u: Tensor) -> Tensor:
    """Return the mean over images, (F, P)."""
    return u.double().mean(0).flatten(1) if u.dim() > 2 else u.double().mean(0)[:, None]


def mask(z: Tensor) -> Tensor:
    """Return the response of the kept dimensions alone."""
    kept = torch.zeros(z.shape[1])
    kept[KEPT] = 1
    return z * kept


class Pooled(nn.Module):
    """Convolutions, max pooling at two overlapping strides, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(6 * 9, 7)
        self.fc2 = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 1, 1)
        x = F.max_pool2d(torch.relu_(self.conv2(x)), 2)
        return self.fc2(self.fc1(torch.flatten(x, 1)).relu())


def pooled_oracle(net: Pooled, x: Tensor) -> dict[str, Tensor]:
    a = F.relu(net.conv1(x))
    b, where_b = F.max_pool2d(a, 3, 1, 1, return_indices=True)
    c = F.relu(net.conv2(b))
    d, where_d = F.max_pool2d(c, 2, return_indices=True)
    z = F.relu(net.fc1(torch.flatten(d, 1)))
    found = {"fc2": mask(z)}
    u = F.relu(found["fc2"]) @ net.fc1.weight
    found["fc1"] = u
    u = F.max_unpool2d(u.view_as(d), where_d, 2, output_size=c.shape[2:])
    u = up(F.relu(u), net.conv2, b)
    found["conv2"] = u
    # Overlapping windows add up where they chose the same place.
    spread = torch.zeros_like(a).flatten(2).scatter_add_(2, where_b.flatten(2), u.flatten(2))
    found["conv1"] = up(F.relu(spread.view_as(a)), net.conv1, x)
    return found


def residual_oracle(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The `residual` network of tests/graph/nets.py."""
    a = F.relu(net.stem(x))
    b = F.relu(net.bn1(net.conv1(a)))
    c = F.relu(a + net.bn2(net.conv2(b)))
    z = c.mean((2, 3))
    found = {"head": mask(z)}
    area = c.shape[2] * c.shape[3]
    u = F.relu((found["head"] / area)[:, :, None, None].expand_as(c))
    found["conv2"] = up(norm(u, net.bn2), net.conv2, b)
    inner = up(norm(F.relu(found["conv2"]), net.bn1), net.conv1, a)
    found["conv1"] = u + inner  # the shortcut and the branch add up
    found["stem"] = up(F.relu(found["conv1"]), net.stem, x)
    return found


class TwoBranches(nn.Module):
    """A small Inception module: 1×1, 1×1 → 3×3 and pool → 1×1, concatenated, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.one = nn.Conv2d(5, 2, 1)
        self.reduce = nn.Conv2d(5, 3, 1)
        self.three = nn.Conv2d(3, 3, 3, padding=1)
        self.project = nn.Conv2d(5, 2, 1)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        parts = [
            F.relu(self.one(x)),
            F.relu(self.three(F.relu(self.reduce(x)))),
            F.relu(self.project(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))),
        ]
        return self.head(F.adaptive_avg_pool2d(torch.cat(parts, 1), 1).flatten(1))


def inception_oracle(net: TwoBranches, x: Tensor) -> dict[str, Tensor]:
    a = F.relu(net.stem(x))
    r = F.relu(net.reduce(a))
    p = F.avg_pool2d(a, 3, 1, 1, count_include_pad=False)
    cat = torch.cat([F.relu(net.one(a)), F.relu(net.three(r)), F.relu(net.project(p))], 1)
    found = {"head": mask(cat.mean((2, 3)))}
    area = cat.shape[2] * cat.shape[3]
    u = (found["head"] / area)[:, :, None, None].expand_as(cat)
    one, three, pool = F.relu(u).split([2, 3, 2], 1)
    found["three"] = up(three, net.three, r)
    found["project"] = up(pool, net.project, p)
    # The transpose of averaging: each mean spreads evenly over the pixels it was made of.
    ones = a.new_ones(1, 1, *a.shape[2:])
    window = a.new_ones(1, 1, 3, 3)
    count = F.conv2d(ones, window, padding=1)
    spread = F.conv2d(found["project"] / count, window.expand(5, 1, 3, 3), padding=1, groups=5)
    total = up(one, net.one, a) + up(F.relu(found["three"]), net.reduce, a) + spread
    found |= dict.fromkeys(("one", "reduce"), total)
    found["stem"] = up(F.relu(total), net.stem, x)
    return found


ORACLES = {
    "plain": (Pooled, pooled_oracle, 12),
    "residual": (lambda: build("residual"), residual_oracle, 9),
    "inception": (TwoBranches, inception_oracle, 8),
}


@pytest.mark.parametrize("kind", ORACLES)
def test_a_trace_is_the_explicit_deconvolution(kind: str) -> None:
    make, oracle, side = ORACLES[kind]
    torch.manual_seed(0)
    net = make().double().eval()
    generator = torch.Generator().manual_seed(1)
    loader = [(torch.randn(n, 3, side, side, generator=generator).double(), None) for n in (5, 3)]
    groups = find_groups(net, loader[0][0][:1])
    traces = trace_utility(net, [x for x, _ in loader], groups, KEPT)
    with torch.no_grad():
        found = oracle(net, torch.cat([x for x, _ in loader]))
    assert set(traces) == set(found) == set(groups.consumers)
    assert traces.images == 8
    for name, u in found.items():
        (got,) = traces[name].maps
        assert got.abs().max() > 0
        torch.testing.assert_close(got, expected(u), rtol=1e-9, atol=1e-12)
        assert torch.equal(traces[name].utility, got.amax(1).clamp(min=0))
        nonzero = got[got != 0]
        spread = ((nonzero - nonzero.mean()).square().sum() / (len(nonzero) - 1)).sqrt()
        assert traces[name].spread == pytest.approx(float(spread))


@pytest.mark.parametrize("kind", ORACLES)
def test_relevance_is_a_value_times_its_gradient(kind: str) -> None:
    make, _, side = ORACLES[kind]
    torch.manual_seed(0)
    net = make().double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, side, side, generator=generator).double()
    groups = find_groups(net, x[:1])
    traces = trace_utility(net, [x[:5], x[5:]], groups, KEPT, rule="relevance")
    read: dict[str, Tensor] = {}
    for module in groups.consumers:
        net.get_submodule(module).register_forward_pre_hook(
            lambda _, args, module=module: read.__setitem__(module, args[0])
        )
    net(x.requires_grad_())
    inputs = [read[module] for module in groups.consumers]
    gradients = torch.autograd.grad(0.5 * mask(read[groups.head]).square().sum(), inputs)
    for module, value, gradient in zip(groups.consumers, inputs, gradients, strict=True):
        (got,) = traces[module].maps
        assert got.max() > 0
        by_hand = expected((value * gradient).abs().detach())
        torch.testing.assert_close(got, by_hand, rtol=1e-9, atol=1e-12)


def test_a_trace_is_no_gradient() -> None:
    net = build("plain").double()
    groups = find_groups(net, images(1).double())
    x = torch.cat([x for x, _ in batches(2, 8)]).double()
    (got,) = trace_utility(net, [x], groups, range(6))["conv1"].maps
    leaf = x.clone().requires_grad_()
    read: list[Tensor] = []
    net.head.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    net(leaf)
    (gradient,) = torch.autograd.grad((read[0].square() / 2).sum(), leaf)
    assert (got - expected(gradient)).abs().max() > 1e-3 * got.abs().max()


@pytest.mark.parametrize(
    "function",
    ["relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "elu", "mish", "softplus", "celu"],
)
def test_every_rectifier_passes_the_positive_signal(function: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(6, 5)
            self.fc2 = nn.Linear(5, 4)
            self.fc3 = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = getattr(F, function)(self.fc1(x))
            return self.fc3(F.relu(self.fc2(x)))

    torch.manual_seed(0)
    net = Net().double()
    x = torch.randn(7, 6, dtype=torch.float64)
    traces = trace_utility(net, [x], find_groups(net, x[:1]), [0, 1, 2, 3])
    with torch.no_grad():
        z = F.relu(net.fc2(getattr(F, function)(net.fc1(x))))
        u = z @ net.fc2.weight
        torch.testing.assert_close(traces["fc2"].maps[0], expected(u))
        torch.testing.assert_close(traces["fc1"].maps[0], expected(F.relu(u) @ net.fc1.weight))
    assert len(RECTIFIERS) == 26


def test_channels_of_dead_dimensions_are_worth_nothing() -> None:
    """conv2 is the identity, so latent dimension j comes from channel j of conv1 alone."""
    net = build("plain")
    net.conv2 = nn.Conv2d(8, 6, 1)
    with torch.no_grad():
        net.conv2.weight.copy_(torch.eye(8)[:6, :, None, None])
    groups = find_groups(net, images(1))
    traces = trace_utility(net, batches(2, 8), groups, [1, 4])
    assert (traces["conv2"].utility > 0).nonzero()[:, 0].tolist() == [1, 4]


def test_images_of_a_class_are_counted() -> None:
    net = build("plain")
    groups = find_groups(net, images(1))
    loader = batches(4, 8)
    one = trace_utility(net, loader, groups, [0], images_a_class=2)
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    first = [int((y == label).nonzero()[n]) for label in range(4) for n in range(2)]
    assert one.images == 8
    by_hand = trace_utility(net, [x[sorted(first)]], groups, [0])
    torch.testing.assert_close(one["conv1"].maps[0], by_hand["conv1"].maps[0])
    assert trace_utility(net, loader, groups, [0], images_a_class=10**6).images == 32


def test_the_network_is_left_as_it_was() -> None:
    net = build("residual").train()
    net.stem.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    trace_utility(net, batches(2, 8), find_groups(net, images(1)), [0])
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert net.training
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["stem.weight"]
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_module_that_runs_twice_has_a_map_a_call() -> None:
    net = build_model("resnet18_al_bli", num_classes=4, input_shape=(3, 16, 16)).eval()
    groups = find_groups(net, torch.zeros(1, 3, 16, 16))
    traces = trace_utility(net, [torch.randn(2, 3, 16, 16)], groups, range(512))
    assert len(traces["levels.0.a.0"].maps) == 2
    assert len(traces["levels.0.b.0"].maps) == 1
    assert isinstance(traces, Traces)


def test_a_rule_that_is_not_there_is_refused() -> None:
    net = build("plain")
    with pytest.raises(ConfigError, match="deconvolution, relevance"):
        trace_utility(net, batches(1, 4), find_groups(net, images(1)), [0], rule="lrp")


def test_wrong_requests_are_refused_in_one_sentence() -> None:
    net = build("plain")
    groups = find_groups(net, images(1))
    with pytest.raises(ConfigError, match=r"dimensions \[7\] .* 0 … 5"):
        trace_utility(net, batches(1, 8), groups, [7])
    with pytest.raises(ConfigError, match="images_a_class is 0"):
        trace_utility(net, batches(1, 8), groups, [0], images_a_class=0)
    with pytest.raises(DataError, match="needs class labels"):
        trace_utility(net, [images(4)], groups, [0], images_a_class=1)
    with pytest.raises(DataError, match="no image"):
        trace_utility(net, [], groups, [0])
    two_sizes = [images(2), torch.zeros(1, 3, 20, 20)]
    with pytest.raises(DataError, match="maps of several sizes"):
        trace_utility(net, two_sizes, groups, [0])


def test_statistics_carry_traces_and_lose_them_when_merged() -> None:
    net = build("plain")
    groups = find_groups(net, images(1))
    statistics = collect(net, batches(2, 8), groups, blocks=2)
    traces = trace_utility(net, batches(2, 8), groups, [0])
    with_them = statistics.with_traces(traces)
    assert with_them.traces is with_them.leave_out(0).traces is traces
    assert with_them.merge(statistics).traces is statistics.traces is None
    assert torch.equal(with_them["conv2"].gram, statistics["conv2"].gram)
