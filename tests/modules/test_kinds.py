"""The weight of a consumer by feature and by cell: one layout, read and written."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import PlanError
from prunus.graph import find_groups
from prunus.modules.kinds import input_columns, set_input_columns_
from prunus.plan import plan_units
from prunus.surgery import replay_
from tests.graph.nets import NETS, build, images

MODULES = {
    "linear": lambda: nn.Linear(6, 4),
    "conv": lambda: nn.Conv2d(6, 4, (3, 2)),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 3),
    "grouped, transposed": lambda: nn.ConvTranspose1d(6, 4, 3, groups=2),
    "1d": lambda: nn.Conv1d(6, 4, 5),
    "channels last": lambda: nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("kind", MODULES)
def test_row_c_of_the_columns_is_all_that_reads_channel_c(kind: str) -> None:
    torch.manual_seed(0)
    module = MODULES[kind]()
    module.bias = None
    columns = input_columns(module)
    assert columns.shape[0] == 6
    x = torch.randn((2, 6, 5, 5)[: max(module.weight.dim(), 2)])
    for c in range(6):
        alone, silent = copy.deepcopy(module), torch.zeros_like(x)
        silent[:, c] = x[:, c]
        one = torch.zeros_like(columns)
        one[c] = columns[c]
        set_input_columns_(alone, one)
        torch.testing.assert_close(alone(x), module(silent))


@pytest.mark.parametrize("kind", MODULES)
def test_writing_what_was_read_changes_no_bit(kind: str) -> None:
    module = MODULES[kind]()
    before = module.weight.detach().clone()
    set_input_columns_(module, input_columns(module).clone())
    assert torch.equal(module.weight, before)
    set_input_columns_(module, 2 * input_columns(module))
    assert torch.equal(module.weight, 2 * before)


@pytest.mark.parametrize("net", NETS)
def test_weights_by_feature_and_by_cell_go_back_as_they_came(net: str) -> None:
    model = build(net)
    groups = find_groups(model, images(1), feature_limit=40 if net == "flatten" else 4096)
    for name, consumer in groups.consumers.items():
        before = model.get_submodule(name).weight.detach().clone()
        for cells in sorted({1, consumer.cells(model)}):
            W = groups.weight(name, cells)
            assert W.dtype == torch.float64
            assert W.shape[0] == len(consumer.positions) * cells
            consumer.set_weight_(model, 2 * W, cells)
            assert torch.equal(model.get_submodule(name).weight, 2 * before)
            consumer.set_weight_(model, W, cells)
            assert torch.equal(model.get_submodule(name).weight, before)


@pytest.mark.parametrize("net", ["plain", "grouped"])
def test_by_cell_the_weight_reads_unfolded_patches(net: str) -> None:
    model = build(net).double()
    groups = find_groups(model, images(1).double())
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    patches = F.unfold(x, 3).transpose(1, 2)  # (N, positions, channels·taps)
    conv = model.get_submodule("conv2")
    made = (patches @ groups.weight("conv2", 9)).transpose(1, 2) + conv.bias[:, None]
    torch.testing.assert_close(made.unflatten(2, (4, 4)), conv(x))


def test_by_cell_a_folded_linear_layer_reads_channel_and_position() -> None:
    model = build("flatten")
    groups = find_groups(model, images(1), feature_limit=40)
    assert groups.consumers["fc1"].cells(model) == 16
    torch.testing.assert_close(groups.weight("fc1", 16), model.fc1.weight.detach().double().T)


def test_a_selecting_layer_reads_only_its_own() -> None:
    model = build("flatten")
    weight = model.fc1.weight.detach().clone()
    replay_(model, plan_units(find_groups(model, images(1)), {"fc1.features": [3, 20]}))
    groups = find_groups(model, images(1))
    kept = [i for i in range(80) if i not in (3, 20)]
    torch.testing.assert_close(groups.weight("fc1"), weight[:, kept].T.double())
    groups.consumers["fc1"].set_weight_(model, torch.zeros(78, 12, dtype=torch.float64))
    assert not model.get_submodule("fc1").weight.any()


def test_another_number_of_cells_is_refused() -> None:
    groups = find_groups(build("plain"), images(1))
    with pytest.raises(PlanError, match="'conv2' reads 9 cells per feature, asked for 4"):
        groups.weight("conv2", 4)
    groups = find_groups(build("transposed"), images(1))
    with pytest.raises(PlanError, match="'up' reads 1 cells per feature, asked for 16"):
        groups.weight("up", 16)
