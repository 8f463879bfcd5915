"""Which units are coupled, and what may not be cut."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import NonFiniteError, NothingToPruneError, TraceError
from prunus.graph import Groups, find_groups
from prunus.models import build_model
from prunus.surgery import mask_, replay_
from tests.conftest import random_plan
from tests.graph.nets import NETS, Plain, build, images

#: group → its members as "module.axis".
EXPECTED = {
    "plain": {"conv1": "conv1.out bn1.out conv2.in", "conv2": "conv2.out head.in"},
    "residual": {
        "stem": "stem.out conv1.in conv2.out bn2.out head.in",
        "conv1": "conv1.out bn1.out conv2.in",
    },
    "concat": {
        "a": "a.out mix.in norm.out last.in",
        "b": "b.out mix.in norm.out last.in",
        "mix": "mix.out norm.out last.in",
        "last": "last.out head.in",
    },
    "depthwise": {
        "expand": "expand.out bn.out deep.in deep.out point.in",
        "point": "point.out head.in",
    },
    "grouped": {
        "conv1": "conv1.out conv2.in",
        "conv2": "conv2.out conv3.in",
        "conv3": "conv3.out head.in",
    },
    "transposed": {"down": "down.out up.in", "up": "up.out last.in", "last": "last.out head.in"},
    "transposed in groups": {
        "down": "down.out up.in",
        "up": "up.out deep.in deep.out last.in",
        "last": "last.out head.in",
    },
    "flatten": {
        "fc1.features": "fc1.select",
        "conv1": "conv1.out fc1.in",
        "fc1": "fc1.out fc2.in",
    },
    "mlp": {
        "fc1.inputs": "fc1.select",
        "fc1": "fc1.out fc2.in",
        "fc2": "fc2.out fc3.in",
    },
    "token": {
        "embed": "embed.out norm.out up.in",
        "up": "up.out down.in",
        "down": "down.out head.in",
    },
    "prelu": {"conv1": "conv1.out act1.out conv2.in", "conv2": "conv2.out head.in"},
}


def members(groups: Groups) -> dict[str, str]:
    return {g.name: " ".join(f"{m.module}.{m.axis}" for m in g.members) for g in groups.values()}


def reasons(groups: Groups) -> dict[str, str]:
    return {u.module: u.reason for u in groups.unprunable}


@pytest.mark.parametrize("net", NETS)
def test_members(net: str) -> None:
    groups = find_groups(build(net), images(1))
    assert members(groups) == EXPECTED[net]
    last = "fc3" if net == "mlp" else "fc2" if net == "flatten" else "head"
    assert reasons(groups) == {last: "its outputs are the network's outputs"}


@pytest.mark.parametrize("net", [n for n in NETS if n != "token"])
def test_cut_equals_masked(net: str) -> None:
    # A LayerNorm takes the mean over what is left, so a token network has no such equality.
    model = build(net)
    groups = find_groups(model, images(1))
    for seed in range(4):
        plan = random_plan(groups, seed)
        x = images(3, seed)
        with torch.no_grad():
            masked = mask_(copy.deepcopy(model), plan)(x)
            cut = replay_(copy.deepcopy(model), plan)(x)
        torch.testing.assert_close(cut, masked, atol=1e-6, rtol=0)


def test_indices_through_concat_flatten_and_convolution_groups() -> None:
    concat = find_groups(build("concat"), images(1))
    index = {m.module: m.index[:, 0].tolist() for m in concat["b"].members}
    assert index == {"b": [0, 1, 2, 3]} | {n: [6, 7, 8, 9] for n in ("mix", "norm", "last")}
    flatten = find_groups(build("flatten"), images(1))["conv1"]
    assert flatten.members[1].index.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(5)]
    assert [flatten.flattens(m) for m in flatten.members] == [False, True]
    grouped = find_groups(build("grouped"), images(1))
    assert grouped["conv1"].units == 4  # channel j of each of the two groups
    assert grouped["conv1"].members[0].index.tolist() == [[j, j + 4] for j in range(4)]
    assert not any(grouped["conv2"].flattens(m) for m in grouped["conv2"].members)


def test_kinds() -> None:
    kinds = {
        g.name: g.kind
        for net in ("flatten", "mlp")
        for g in find_groups(build(net), images(1)).values()
    }
    assert kinds["conv1"] == "channels"
    assert kinds["fc2"] == "neurons"
    assert kinds["fc1.features"] == "features"
    assert kinds["fc1.inputs"] == "inputs"
    assert not any(
        g.kind == "inputs" for g in find_groups(build("mlp"), images(1), inputs=False).values()
    )


def test_the_norm_that_follows_and_nothing_else_reads() -> None:
    assert find_groups(build("residual"), images(1)).normalizer == {"conv1": "bn1", "conv2": "bn2"}
    assert find_groups(build("concat"), images(1)).normalizer == {}


def test_blocks_pad_what_is_not_read() -> None:
    model = build("flatten")
    replay_(model, random_plan(find_groups(model, images(1)), seed=1))
    groups = find_groups(model, images(1))
    consumer = groups.consumers["fc1"]
    blocks = consumer.blocks(groups["conv1"].members[1].index)
    owned = [sorted(int(f) for f in row if f >= 0) for row in blocks]
    assert sorted(f for row in owned for f in row) == list(range(len(consumer.positions)))
    for channel, row in enumerate(owned):
        assert all(consumer.positions[f, 0] // 16 == channel for f in row)
    assert all(sorted(row, key=lambda f: f < 0) == list(row) for row in blocks)  # padded at the end


def test_frozen_parameters_make_no_difference() -> None:
    model = build("residual")
    free = members(find_groups(model, images(1)))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    groups = find_groups(model, images(1))
    assert members(groups) == free
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("net", ["concat", "flatten", "token"])
def test_the_model_is_left_as_it_was(net: str) -> None:
    model = build(net).train()
    next(model.parameters()).requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modules = list(model.modules())
    flags = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        find_groups(model, images(2))
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert list(model.modules()) == modules
    assert all(m.training for m in modules)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)


def test_padded_shortcuts_keep_the_stream() -> None:
    model = build_model("resnet20", num_classes=10, input_shape=(3, 16, 16))
    groups = find_groups(model, torch.randn(1, 3, 16, 16))
    assert [g.name for g in groups.values()] == [
        f"layer{i}.{j}.conv1" for i in (1, 2, 3) for j in range(3)
    ]
    stream = reasons(groups)["conv1"]
    assert "padded" in stream


class Net(nn.Module):
    """A stem, something to be defined, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)


class Shared(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.middle(self.stem(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_a_module_called_twice_is_coupled_to_itself() -> None:
    groups = find_groups(Shared().eval(), images(1))
    assert members(groups) == {"stem": "stem.out middle.in middle.out head.in"}
    assert groups.layers["middle"].positions == 200


class Raw(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x) * self.gain).relu().mean((2, 3)))


def test_a_raw_parameter_is_cut_with_what_it_scales() -> None:
    model = Raw().eval()
    groups = find_groups(model, images(1))
    assert members(groups)["stem"] == "stem.out middle.in gain:0.out"
    plan = random_plan(groups, 1)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(images(2))
        torch.testing.assert_close(replay_(model, plan)(images(2)), masked)


class TwoOutputs(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        y = self.middle(x).relu()
        return self.head(y.mean((2, 3))), y


def test_every_output_is_protected() -> None:
    groups = find_groups(TwoOutputs().eval(), images(1))
    assert members(groups) == {"stem": "stem.out middle.in"}
    assert set(reasons(groups)) == {"middle", "head"}


def test_a_network_that_ends_in_a_sum_is_protected_through_it() -> None:
    class Sum(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return x + self.middle(x)

    groups = find_groups(Sum().eval(), images(1))
    assert len(groups) == 0
    assert reasons(groups)["stem"] in (
        "its outputs are the network's outputs",
        "middle is coupled to it, and its outputs are the network's outputs",
    )


class Auxiliary(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.aux = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        out = self.head(self.middle(x).relu().mean((2, 3)))
        return (out, self.aux(self.norm(x.mean((2, 3))))) if self.training else out


def test_heads_that_run_in_training_only_are_met() -> None:
    model = Auxiliary().eval()
    groups = find_groups(model, images(1))
    assert members(groups)["stem"] == "stem.out middle.in norm.out aux.in"
    assert set(reasons(groups)) == {"aux", "head"}
    plan = random_plan(groups, seed=1)
    assert "stem" in plan.groups
    cut = replay_(copy.deepcopy(model), plan).train()
    assert [o.shape for o in cut(images(2))] == [(2, 4), (2, 4)]


def test_a_module_that_never_runs_is_named() -> None:
    model = Net()
    model.forward = lambda x: model.head(model.stem(x).relu().mean((2, 3)))
    assert reasons(find_groups(model.eval(), images(1)))["middle"] == (
        "it does not run in the forward pass"
    )


def test_ignored_layers() -> None:
    groups = find_groups(build("plain"), images(1), ignored_layers=["conv1"])
    assert set(members(groups)) == {"conv2"}
    assert reasons(groups)["conv1"] == "it is in ignored_layers"
    coupled = find_groups(build("residual"), images(1), ignored_layers=["conv2"])
    assert reasons(coupled)["stem"] == "conv2 is coupled to it, and it is in ignored_layers"
    assert "fc1.inputs" not in members(find_groups(build("mlp"), images(1), ignored_layers=["fc1"]))


class Uneven(Net):
    """Two convolutions, side by side, feed one group each of a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 8, 1)
        self.middle = nn.Conv2d(16, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(torch.cat([self.stem(x), self.other(x)], 1))
        return self.head(x.relu().mean((2, 3)))


def test_units_must_spread_over_the_groups_of_a_convolution() -> None:
    groups = find_groups(Uneven().eval(), images(1))
    assert members(groups) == {"middle": "middle.out head.in"}
    assert "not spread evenly over the 2 groups of middle" in reasons(groups)["stem"]


class Normed(Net):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.norm(self.stem(x))).relu().mean((2, 3)))


def test_a_norm_over_several_axes_keeps_its_channels() -> None:
    groups = find_groups(Normed(nn.LayerNorm([8, 10, 10])).eval(), images(1))
    assert members(groups) == {"middle": "middle.out head.in"}
    assert reasons(groups)["stem"] == "a norm over several axes reads it"


def test_a_norm_over_another_axis_does_not_matter() -> None:
    groups = find_groups(Normed(nn.LayerNorm(10)).eval(), images(1))
    assert members(groups)["stem"] == "stem.out middle.in"


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.GroupNorm(1, 8), nn.GroupNorm(8, 8)])
def test_norms_over_groups_of_channels(norm: nn.GroupNorm) -> None:
    model = Normed(norm).eval()
    groups = find_groups(model, images(1))
    assert members(groups)["stem"] == "stem.out middle.in norm.out"
    assert groups["stem"].units == (4 if norm.num_groups == 2 else 8)
    plan = random_plan(groups, 1)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(images(2))
        torch.testing.assert_close(replay_(model, plan)(images(2)), masked)


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(8, affine=True), nn.BatchNorm2d(8, affine=False)]
)
def test_norms_a_channel(norm: nn.Module) -> None:
    model = Normed(norm).eval()
    groups = find_groups(model, images(1))
    assert members(groups)["stem"] == "stem.out middle.in norm.out"
    plan = random_plan(groups, 1)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(images(2))
        torch.testing.assert_close(replay_(model, plan)(images(2)), masked)


class Breaks(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(9, 6, 3)


def test_a_network_that_does_not_run_names_the_module() -> None:
    with pytest.raises(TraceError, match=r"module 'conv2' \(Conv2d\) failed.*\(1, 3, 10, 10\)"):
        find_groups(Breaks().eval(), images(1))
    with pytest.raises(TraceError, match=r"module 'conv1' \(Conv2d\) failed"):
        find_groups(build("plain"), torch.randn(1, 5, 10, 10))


def test_weights_that_are_not_finite_are_named() -> None:
    model = build("plain")
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"module 'conv2'.*'conv2.weight'"):
        find_groups(model, images(1))


def test_nothing_to_prune() -> None:
    groups = find_groups(
        nn.Sequential(nn.Flatten(), nn.Linear(300, 4)).eval(), images(1), inputs=False
    )
    with pytest.raises(NothingToPruneError, match="1: its outputs are the network's outputs"):
        groups.require_any()
    groups = find_groups(nn.ReLU(), images(1))
    with pytest.raises(NothingToPruneError, match="no convolution or linear layer"):
        groups.require_any()


def test_several_arguments() -> None:
    class Two(Net):
        def forward(self, x: Tensor, gain: float) -> Tensor:
            return self.head(self.middle(F.relu(self.stem(x)) * gain).mean((2, 3)))

    groups = find_groups(Two().eval(), (images(1), 2.0))
    assert set(members(groups)) == {"stem", "middle"}


def test_a_module_without_gradient_is_followed_too() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)
            self.b = nn.Conv2d(4, 5, 3)
            self.c = nn.Conv2d(5, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x = self.a(x)
            return self.c(self.b(x).relu())

    groups = find_groups(Detached(), torch.zeros(1, 3, 12, 12))
    assert [g.name for g in groups.values()] == ["a", "b"]
    assert {u.module for u in groups.unprunable} == {"c"}


def test_names_still_answer_for_their_groups_with_a_warning() -> None:
    groups = find_groups(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4)
    )
    first = next(iter(groups))
    assert first == "0.inputs"
    assert groups[first] is groups.entries[0]
    with pytest.deprecated_call(match=r"use groups.values\(\)"):
        assert first.units == 4  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = first.nonsense  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(first)) == "0.inputs"
    assert copy.deepcopy(list(groups)) == list(groups)
