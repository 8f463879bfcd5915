"""Layers whose weights are read without a call: they are seen as if they were called."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.criteria import score
from prunus.graph import find_groups
from prunus.modules.uncalled import Calling, calling, plain_attention
from prunus.plan import make_plan
from prunus.statistics import collect
from prunus.surgery import apply_, mask_, replay_
from tests.graph.test_groups import members


class Functional(nn.Module):
    """`up` is called, `down` is not, and `shift` replaces its missing bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)
        self.shift, self.head = nn.Parameter(torch.randn(5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(F.linear(self.up(x).relu(), self.down.weight, self.shift)))


class Windows(nn.Module):
    """A linear layer over windows, which are the rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        images, side = len(x), x.shape[1]
        x = self.embed(x).view(images, 2, side // 2, 2, side // 2, 8).transpose(2, 3)
        x = self.mix(x.reshape(-1, (side // 2) ** 2, 8)).relu()
        return self.head(x.view(images, -1, 6).mean(1))


def test_a_layer_that_is_not_called_is_cut() -> None:
    model, x = Functional().eval(), torch.randn(4, 6)
    groups = find_groups(model, x, inputs=False)
    assert groups.uncalled == ("down",)
    assert members(groups) == {"up": "up.out down.in", "down": "down.out head.in shift:0.out"}
    assert groups.total_macs == 6 * 8 + 8 * 5 + 5 * 3
    plan = make_plan(groups, score(groups, None, "random", seed=0), "macs=60%")
    cut, masked = (f(copy.deepcopy(model), plan)(x) for f in (replay_, mask_))
    torch.testing.assert_close(cut, masked)


def test_its_statistics_are_those_of_what_it_reads() -> None:
    model, x = Functional().eval(), torch.randn(40, 6)
    loader = [(x, torch.arange(40) % 3)]
    groups = find_groups(model, x[:1], inputs=False)
    statistics = collect(model, loader, groups)
    read = model.up(x).relu().detach().double()
    torch.testing.assert_close(statistics["down"].mean, read.mean(0), rtol=1e-5, atol=1e-6)
    plan = make_plan(groups, score(groups, statistics, "stacked"), "macs=60%")
    repaired = [r.module for r in apply_(model, plan, statistics, loader=loader).repairs]
    assert "down" in repaired


def test_a_layer_with_a_bias_of_its_own_keeps_it() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    with Calling(layer) as calls:
        torch.testing.assert_close(F.linear(x, layer.weight), x @ layer.weight.T)
        assert not calls.found
        torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), layer(x))
    assert list(calls.found) == [""]
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_shared_weights_are_not_taken_for_one_of_their_layers() -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = one.weight
    with Calling(nn.ModuleList([one, other])) as calls:
        F.linear(torch.randn(2, 4), one.weight, one.bias)
    assert not calls.found


def test_windows_count_and_are_samples_of_their_image() -> None:
    torch.manual_seed(0)
    model, x = Windows().eval(), torch.randn(30, 4, 4, 3)
    groups = find_groups(model, x[:1], inputs=False)
    assert groups.layers["mix"].macs(6, 8) == 16 * 6 * 8
    assert find_groups(model, x[:2], inputs=False).total_macs == groups.total_macs
    y = torch.arange(30) % 3
    statistics = collect(model, [(x, y)], groups)
    read = model.embed(x).detach().double().flatten(1, 2)
    assert statistics["mix"].samples == 30 * 16
    sums = torch.stack([read[y == c].sum((0, 1)) for c in range(3)])
    torch.testing.assert_close(statistics["mix"].cross, sums, rtol=1e-4, atol=1e-4)


def test_pytorchs_fused_layers_come_back_when_the_last_thread_leaves() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    inside, leave = threading.Barrier(2), threading.Event()

    def other() -> None:
        with plain_attention():
            inside.wait()
            leave.wait()

    thread = threading.Thread(target=other)
    with plain_attention():
        thread.start()
        inside.wait()
    assert not torch.backends.mha.get_fastpath_enabled()
    leave.set()
    thread.join()
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("names", [(), ("down",)])
def test_calling_leaves_nothing_behind(names: tuple[str, ...]) -> None:
    model, x = Functional(), torch.randn(2, 6)
    expected = model(x)
    with calling(model, names):
        torch.testing.assert_close(model(x), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
