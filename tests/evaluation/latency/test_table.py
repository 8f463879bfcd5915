"""The table gives back what was timed, never falls, and adds up to the measured network."""

import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus.batches import Inputs
from prunus.core.errors import ConfigError, DataError
from prunus.evaluation import Comparison, Grid, LatencyTable, measure_latency_table
from prunus.evaluation.latency import measure_steps, measure_table
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.modules.select import SelectLinear
from prunus.plan.cost_tracker import CostTracker
from prunus.surgery import replay_
from tests.conftest import random_plan
from tests.graph.nets import SHAPE, build, images

NETWORKS = {
    "lenet5": (1, 28, 28),
    "depthwise": SHAPE,
    "grouped": SHAPE,
    "transposed": SHAPE,
    "token": SHAPE,
}


def network(name: str) -> nn.Module:
    shape = NETWORKS[name]
    if shape == SHAPE:
        return build(name)
    return build_model(name, num_classes=10, input_shape=shape).eval()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a layer takes 1 ms for each channel made and 0.1 ms for each pair.

    Picking a feature takes 0.01 ms.
    """

    def fake(module: nn.Module, x: torch.Tensor, repeats: int) -> float:
        made = x(module) if isinstance(x, Inputs) else module(x)  # it must run on that input
        if not isinstance(module, nn.Module):
            return 0.01 * made.shape[-1]
        own = [
            m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
        ]
        return 5.0 * (len(own) > 1) + sum(cost(m) for m in own)

    monkeypatch.setattr(measure_table, "_median", fake)


def cost(module: nn.Module) -> float:
    out, in_ = module.weight.shape[:2]
    return out + 0.1 * out * in_


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bilinear_machine_is_known_exactly(name: str) -> None:
    model = network(name)
    x = torch.randn(2, *NETWORKS[name])
    groups = find_groups(model, x)
    state = torch.random.get_rng_state()
    table = measure_latency_table(model, groups, x, batch=3, grid=(0.3, 0.8))
    assert torch.equal(state, torch.random.get_rng_state())
    assert table.batch == 3
    assert table.rest == pytest.approx(5.0)
    assert CostTracker(groups, table).totals["ms"] == pytest.approx(
        5 + sum(cost(model.get_submodule(n)) for n in table.layers)
    )
    for name_, layer in groups.layers.items():
        if name_ in table.layers and layer.groups == 1 and layer.mixing:
            for out in range(1, layer.out + 1, 3):
                for in_ in range(1, layer.in_ + 1, 7):
                    swapped = isinstance(model.get_submodule(name_), nn.ConvTranspose2d)
                    first = in_ if swapped else out
                    assert table.ms(name_, out, in_) == pytest.approx(first + 0.1 * out * in_)
    assert LatencyTable.from_json(table.to_json()) == table


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", ["lenet300", "lenet5"])
def test_picking_inputs_costs_what_the_cut_network_takes(name: str) -> None:
    model = build_model(name, num_classes=10, input_shape=(1, 28, 28)).eval()
    x = torch.randn(1, 1, 28, 28)
    groups = find_groups(model, x)
    table = measure_latency_table(model, groups, x)
    tracker = CostTracker(groups, table)
    dense = tracker.totals["ms"]
    (group,) = (group for group in groups.values() if group.selects)
    (consumer,) = (member.module for member in group.members)
    saved = tracker.saving(group, [3])["ms"]
    first = model.get_submodule(consumer)
    assert saved == pytest.approx(0.1 * first.out_features - 0.01 * (first.in_features - 1))
    plan = random_plan(groups, 0)
    for each in groups.values():
        tracker.remove(each, plan.groups[each.name].removed if each.name in plan.groups else [])
    assert tracker.totals["ms"] < dense
    cut = replay_(copy.deepcopy(model), plan)
    selecting = [module for module in cut.modules() if isinstance(module, SelectLinear)]
    linear = [m for m in cut.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    expected = 5 + sum(map(cost, linear)) + sum(0.01 * len(m.index) for m in selecting)
    assert len(selecting) == 1
    assert tracker.totals["ms"] == pytest.approx(expected)
    again = find_groups(cut, x)
    assert CostTracker(again, table).totals["ms"] == pytest.approx(expected)
    new = measure_latency_table(cut, again, x)
    assert CostTracker(again, new).totals["ms"] == pytest.approx(5 + sum(map(cost, linear)))


def test_on_this_machine() -> None:
    model = network("lenet5")
    x = torch.randn(1, 1, 28, 28)
    groups = find_groups(model, x)
    seen = []

    def progress(items):
        seen.extend(items)
        return items

    table = measure_latency_table(model, groups, x, repeats=5, progress=progress)
    assert (len(seen), len(table.grids)) == (4, 5)  # and the picking of flattened positions
    assert table.rest >= 0
    assert table.threads == torch.get_num_threads()
    assert table.machine
    whole = CostTracker(groups, table).totals["ms"]
    assert 0.01 < whole < 1000
    for name in table.layers:
        layer = groups.layers[name]
        costs = [table.ms(name, layer.out, i) for i in range(1, layer.in_ + 1)]
        assert all(b >= a - 1e-12 for a, b in itertools.pairwise(costs))
        assert costs[0] > 0
    cut = replay_(model, random_plan(groups, 0))  # SelectLinear among its layers
    again = measure_latency_table(cut, find_groups(cut, x), x, repeats=2, grid=(1.0,))
    assert set(again.layers) == set(table.layers)


@given(
    outs=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True).map(sorted),
    ins=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True).map(sorted),
    data=st.data(),
)
def test_never_falls_and_passes_through_its_knots(outs, ins, data) -> None:
    row = st.lists(st.floats(0, 10), min_size=len(ins), max_size=len(ins))
    ms = data.draw(st.lists(row, min_size=len(outs), max_size=len(outs)))
    grid = Grid.monotone(tuple(outs), tuple(ins), ms)
    for o, out in enumerate(outs):
        for i, in_ in enumerate(ins):
            highest = max(ms[a][b] for a in range(o + 1) for b in range(i + 1))
            assert grid.at(out, in_) == highest
    wide = range(0, 70, 3)
    for fixed in (1, 17, 42, 65):
        for walk in ([grid.at(w, fixed) for w in wide], [grid.at(fixed, w) for w in wide]):
            assert all(b >= a - 1e-12 for a, b in itertools.pairwise(walk))


def test_between_knots_by_hand() -> None:
    grid = Grid.monotone((2, 4), (10, 20, 40), [[1, 2, 4], [3, 5, 9]])
    assert grid.at(3, 10) == 2  # half-way from 1 to 3
    assert grid.at(2, 25) == 2.5  # a quarter of the way from 2 to 4
    assert grid.at(3, 25) == pytest.approx(0.5 * 2.5 + 0.5 * 6)
    assert (grid.at(1, 1), grid.at(9, 99)) == (1, 9)


@pytest.mark.usefixtures("clock")
def test_layers_slower_alone_than_together_are_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("token")
    groups = find_groups(model, images(1))
    alone = measure_table._median

    def slow(module: nn.Module, x: torch.Tensor, repeats: int) -> float:
        return 3.0 if list(module.children()) else alone(module, x, repeats)

    monkeypatch.setattr(measure_table, "_median", slow)
    table = measure_latency_table(model, groups, images(1))
    assert table.rest == 0
    assert CostTracker(groups, table).totals["ms"] == pytest.approx(3.0)


@pytest.mark.usefixtures("clock")
def test_a_layer_called_twice_counts_twice_and_one_that_does_not_run_nothing() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(300, 6)
            self.again = nn.Linear(6, 6)
            self.idle = nn.Linear(6, 6)
            self.last = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.again(self.again(self.first(x.flatten(1)))))

    model = Twice().eval()
    groups = find_groups(model, images(1))
    table = measure_latency_table(model, groups, images(1))
    assert table.ms("again", 6, 6) == pytest.approx(2 * (6 + 3.6))
    assert table.ms("idle", 6, 6) == 0
    calls = (model.first, model.again, model.again, model.last)
    assert CostTracker(groups, table).totals["ms"] == pytest.approx(5 + sum(map(cost, calls)))


@pytest.mark.usefixtures("clock")
def test_numbers_and_raw_parameters_are_no_layers() -> None:
    model = build("token")
    groups = find_groups(model, images(1))
    raw = dataclasses.replace(groups.layers[next(iter(groups.layers))], mixing=False)
    model.scale = nn.Parameter(torch.ones(3))
    groups = dataclasses.replace(groups, layers={**groups.layers, "scale:0": raw})
    assert "scale:0" not in measure_latency_table(model, groups, images(1)).layers


def test_out_of_range_and_foreign() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    for options in ({"batch": 0}, {"repeats": 0}, {"grid": (0.5, 1.5)}):
        with pytest.raises(ConfigError, match="expected batch and repeats of at least 1"):
            measure_latency_table(model, groups, images(1), **options)
    table = LatencyTable({}, {}, 1.0, 1, 1, "made up")
    with pytest.raises(DataError, match=r"has no layer 'conv1'.*measure a table of this network"):
        CostTracker(groups, table)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 2, "grids": {"a": 3}, "layers": {}}']
)
def test_what_is_no_table(text: str) -> None:
    with pytest.raises(DataError, match="not a latency table of Prunus"):
        LatencyTable.from_json(text)


def test_tables_that_do_not_fit() -> None:
    table = LatencyTable({"a": Grid((1,), (1,), ((1.0,),))}, {"conv": ("a",)}, 1.0, 1, 1, "")
    text = table.to_json()
    with pytest.raises(DataError, match="format 1, this Prunus reads format 2"):
        LatencyTable.from_json(text.replace('"format": 2', '"format": 1'))
    with pytest.raises(DataError, match="has no grid 'a'"):
        LatencyTable.from_json(dataclasses.replace(table, grids={}).to_json())
    bad = dataclasses.replace(table, grids={"a": Grid((1, 2), (1,), ((1.0,),))})
    with pytest.raises(DataError, match="do not match its widths"):
        LatencyTable.from_json(bad.to_json())


def test_steps_are_timed_where_layers_are_wide_and_can_be_pruned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine of its own: layer by layer, both widths at once, the costliest first."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 96, 1), nn.ReLU()),
        *(nn.Conv2d(96, 96, 1, groups=96), nn.Conv2d(96, 8, 1), nn.ReLU(), nn.Conv2d(8, 128, 1)),
    ).eval()
    x = torch.randn(1, 3, 2, 2)
    groups = find_groups(model, x)

    def fake(calls, *, rounds: int, seconds: float) -> Comparison:
        spent = {name: 1e-3 * sum(map(int, name.split("×"))) for name in calls}
        for call in calls.values():
            call()
        return Comparison({name: (each,) * rounds for name, each in spent.items()})

    monkeypatch.setattr(measure_steps, "compare_latency", fake)
    table = measure_latency_table(model, groups, x, repeats=1, steps=True)
    found = {step.layer.partition(", (")[0]: step for step in table.steps}
    assert set(found) == {"Conv2d(3, 64", "Conv2d(64, 96", "Conv2d(96, 96", "Conv2d(96, 8"}
    both = found["Conv2d(64, 96"]
    assert (both.outs, both.ins) == (tuple(range(48, 65)), tuple(range(32, 49)))
    assert both.ms[0] == pytest.approx([o + i for o, i in zip(both.outs, both.ins, strict=True)])
    assert found["Conv2d(3, 64"].ins == (3,) * 17  # narrow, and the image's
    assert found["Conv2d(96, 8"].outs == (8,) * 17
    assert found["Conv2d(96, 96"].ins == found["Conv2d(96, 96"].outs
    assert all(step.calls == 1 for step in table.steps)
    assert LatencyTable.from_json(table.to_json()) == table
    bad = dataclasses.replace(both, ins=(1, 2))
    with pytest.raises(DataError, match="the times of a layer's steps do not match its widths"):
        LatencyTable.from_json(dataclasses.replace(table, steps=(bad,)).to_json())


def test_no_steps_unless_asked_for() -> None:
    model = build("plain")
    groups = find_groups(model, images(1))
    assert measure_latency_table(model, groups, images(1), repeats=1).steps == ()
