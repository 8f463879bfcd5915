"""Modules that run several times: coupled through all calls, paid for once, run each time."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph import Groups, SelectLinear, find_groups
from prunus.plan import Plan, plan_units
from prunus.surgery import apply_, mask_, replay_, undo_, unsound_groups
from tests.conftest import random_plan
from tests.graph import reused
from tests.graph.nets import images
from tests.graph.reused import CLASSES
from tests.graph.test_costs import dense_cost, real_cost, struck


def pixels(count: int) -> Tensor:
    return images(count).double()


def ready(net: str) -> tuple[nn.Module, Groups]:
    model = reused.build(net)
    return model, find_groups(model, pixels(1), inputs=False)


def members(groups: Groups) -> dict[str, str]:
    return {g.name: " ".join(f"{m.module}.{m.axis}" for m in g.members) for g in groups.values()}


COUPLED = {
    "siamese": {"left": "left.out right.out a.in", "a": "a.out norm.out head.in"},
    "level": {
        "stem": "stem.out b1.in b2.in a.out norm1.out norm2.out head.in",
        "b1": "b1.out b2.out a.in",
    },
    "chain": {"stem": "stem.out a.in a.out norm.out head.in"},
    "tokens": {"embed": "embed.out mix.in mix.out head.in"},
}


@pytest.mark.parametrize("net", reused.NETS)
def test_widths_are_coupled_through_every_call(net: str) -> None:
    _, groups = ready(net)
    assert members(groups) == COUPLED[net]
    assert unsound_groups(groups, pixels(2)) == {}


def test_a_channel_of_two_calls_arrives_twice() -> None:
    consumer = next(m for m in ready("siamese")[1]["a"].members if m.module == "head")
    assert consumer.index.tolist() == [[u, u + 6] for u in range(6)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("net", reused.NETS)
def test_cut_equals_masked(net: str, seed: int) -> None:
    model, groups = ready(net)
    plan = random_plan(groups, seed)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(pixels(2))
        cut = replay_(copy.deepcopy(model), plan)(pixels(2))
        assert not torch.allclose(masked, model(pixels(2)), atol=1e-6)
    torch.testing.assert_close(cut, masked)


@pytest.mark.parametrize("net", reused.NETS)
def test_parameters_cost_once_and_every_call_multiplies(net: str) -> None:
    model, groups = ready(net)
    x = pixels(2)
    twin = find_groups(reused.unrolled(net), x)
    calls = model.calls
    for name, layer in groups.layers.items():
        copies = [twin.layers[f"{name}.copies.{k}"] for k in range(calls.get(name, 0))]
        copies = copies or [twin.layers[name]]
        assert layer.positions == sum(c.positions for c in copies)
        assert layer.params(layer.out, layer.in_) == copies[0].params(layer.out, layer.in_)
    assert groups.total_macs == twin.total_macs
    extra = sum(
        (count - 1) * sum(p.numel() for p in model.get_submodule(name).parameters())
        for name, count in calls.items()
    )
    assert groups.total_params == twin.total_params - extra
    assert dense_cost(groups) == real_cost(model, x)
    for seed in range(2):
        plan = random_plan(groups, seed)
        assert struck(groups, plan) == real_cost(replay_(copy.deepcopy(model), plan), x)


def test_the_norm_behind_each_call() -> None:
    found = {net: ready(net)[1] for net in reused.NETS}
    assert found["level"].normalizers == {"a": ("norm1", "norm2")}
    assert found["level"].normalizer == {}  # no norm takes the mean of both calls
    assert found["siamese"].normalizers == {"a": ("norm", None)}
    assert found["siamese"].normalizer == {}
    assert found["chain"].normalizers == {"a": ("norm",) * 4}
    assert found["chain"].normalizer == {"a": "norm"}


def test_a_norm_that_two_modules_feed_belongs_to_neither() -> None:
    class Fed(reused.Level):
        def forward(self, x: Tensor) -> Tensor:
            r = F.relu(self.stem(x))
            r = F.relu(self.norm1(self.b1(r))) + F.relu(self.norm1(self.b2(r)))
            return self.head(self.norm2(self.a(r)).mean((2, 3)))

    model = Fed()
    model.norm1 = nn.BatchNorm2d(5)
    groups = find_groups(model.eval(), images(1))
    assert groups.normalizer == {"a": "norm2"}  # shifting norm1 for b1 would shift b2's result


class Image(nn.Module):
    """A layer whose first call reads the image, whose channels stay."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.same = nn.Linear(300, 300) if linear else nn.Conv2d(3, 3, 3, padding=1)
        self.mid = nn.Linear(300, 5) if linear else nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.same, nn.Linear):
            x = x.flatten(1)
        x = F.relu(self.mid(F.relu(self.same(F.relu(self.same(x))))))
        return self.head(x.flatten(2).mean(2) if x.dim() > 2 else x)


@pytest.mark.parametrize("linear", [True, False])
def test_what_also_reads_the_image_stays(linear: bool) -> None:
    model = Image(linear).eval()
    groups = find_groups(model, images(1), inputs=False)
    assert members(groups) == {"mid": "mid.out head.in"}
    assert {u.module for u in groups.unprunable} == {"same", "head"}
    assert unsound_groups(groups, images(2)) == {}


class Aliased(nn.Module):
    """A convolution, a norm over channels and a linear layer, each registered at two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.norm1 = self.norm2 = nn.LayerNorm(6)
        self.fc1 = self.fc2 = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(F.relu(self.stem(x)))))).mean((2, 3))
        x = self.norm1(F.relu(self.fc1(x)))
        return self.head(self.norm2(F.relu(self.fc2(x))))


def aliased() -> tuple[Aliased, Plan]:
    torch.manual_seed(0)
    model = Aliased().eval()
    with torch.no_grad():
        model.norm1.weight.uniform_(0.5, 1.5)
    groups = find_groups(model, images(1))
    assert unsound_groups(groups, images(1)) == {}
    return model, plan_units(groups, {"stem": [1, 4]})


def test_a_module_at_two_names_is_cut_at_both() -> None:
    model, plan = aliased()
    dense = copy.deepcopy(model)
    with torch.no_grad():
        masked = mask_(copy.deepcopy(model), plan)(images(2))
        receipt = apply_(model, plan)
        torch.testing.assert_close(model(images(2)), masked)
        for one, other in (("conv1", "conv2"), ("norm1", "norm2"), ("fc1", "fc2")):
            assert model.get_submodule(one) is model.get_submodule(other)
        undo_(model, receipt)
        assert torch.equal(model(images(2)), dense(images(2)))
    assert model.fc1 is model.fc2
    assert model.fc1.in_features == 6


def test_a_selecting_layer_at_two_names_is_followed() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=3)  # 3×3 of 4 channels
            self.fc1 = self.fc2 = nn.Linear(36, 36)
            self.head = nn.Linear(36, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x)).flatten(1)
            return self.head(F.relu(self.fc2(x)) + F.relu(self.fc1(x)))

    torch.manual_seed(0)
    model = Flat().eval()
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {"fc1.features": [0, 5, 7]})
    replay_(model, plan)
    assert isinstance(model.fc1, SelectLinear)
    assert model.fc1 is model.fc2
    again = find_groups(model, images(1))
    assert members(again) == members(groups)
    assert unsound_groups(again, images(1)) == {}
