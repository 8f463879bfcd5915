"""Wrapped networks are taken out of their wrapper; what cannot be pruned is refused by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.ao.quantization import quantize_dynamic

import prunus
from prunus.core import ConfigError
from prunus.modules import unwrapped

EXAMPLE = torch.randn(2, 6)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def process_group() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "gloo", init_method=f"file://{Path(folder, 'store')}", rank=0, world_size=1
        )
        yield
        dist.destroy_process_group()


def test_a_compiled_network_is_cut_inside() -> None:
    plain = net()
    compiled = torch.compile(plain, backend="eager")
    assert unwrapped(compiled) is plain
    groups = prunus.find_groups(compiled, EXAMPLE, inputs=False)
    assert list(groups) == ["0"]
    plan = prunus.make_plan(groups, prunus.score(groups, None, "l1"), "params=50%")
    expected = prunus.apply_(plain_copy := net(), plan, compensate="none").params
    receipt = prunus.apply_(compiled, plan, compensate="none")
    assert receipt.params == expected
    torch.testing.assert_close(compiled(EXAMPLE), plain_copy(EXAMPLE))
    assert prunus.diagnose(torch.compile(net(), backend="eager"), EXAMPLE).status == "healthy"


@pytest.mark.usefixtures("process_group")
def test_a_data_parallel_network_is_read_but_not_changed() -> None:
    wrapped = nn.parallel.DistributedDataParallel(net())
    assert prunus.diagnose(wrapped, EXAMPLE).status == "healthy"
    groups = prunus.find_groups(wrapped, EXAMPLE)
    assert groups.model is wrapped.module
    plan = prunus.make_plan(groups, prunus.score(groups, None, "l1"), "params=50%")
    with pytest.raises(ConfigError, match=r"DistributedDataParallel.*give model\.module"):
        prunus.apply_(wrapped, plan, compensate="none")
    assert wrapped.module[0].out_features == 8
    assert unwrapped(nn.DataParallel(net()))[0].out_features == 8


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_network() -> None:
    quantised = quantize_dynamic(net(), {nn.Linear})
    with pytest.raises(ConfigError, match=r"module '0' \(Linear\).*quantised: prune first"):
        prunus.find_groups(quantised, EXAMPLE)
    with pytest.raises(ConfigError, match="prune first, quantise afterwards"):
        prunus.prune(quantised, [(EXAMPLE, torch.tensor([0, 1]))], "params=50%")


def test_a_network_without_weights_yet() -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(ConfigError, match=r"module '0' \(LazyLinear\).*run the network once"):
        prunus.diagnose(lazy, EXAMPLE)
    lazy(EXAMPLE)
    assert prunus.diagnose(lazy, EXAMPLE).status == "healthy"


def test_a_sharded_network() -> None:
    class FSDPModule(nn.Linear):
        """As `fully_shard` renames a module's class."""

    with pytest.raises(ConfigError, match=r"module '0'.*sharded \(FSDP\): gather"):
        unwrapped(nn.Sequential(FSDPModule(3, 3)))


def test_what_is_no_module() -> None:
    program = torch.export.export(net(), (EXAMPLE,))
    with pytest.raises(ConfigError, match=r"ExportedProgram, expected an nn\.Module"):
        prunus.find_groups(program, EXAMPLE)
    with pytest.raises(ConfigError, match="network that it was exported from"):
        prunus.diagnose(program.module(), EXAMPLE)


def test_training_refuses_what_has_no_weights_to_train() -> None:
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3))
    with pytest.raises(ConfigError, match="run the network once"):
        prunus.fit_(lazy, [(EXAMPLE, torch.tensor([0, 1]))])
