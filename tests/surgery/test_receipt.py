"""Receipts as files, and what they hold."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunus.core.errors import WeightsError
from prunus.graph import find_groups
from prunus.plan import plan_units
from prunus.statistics import collect
from prunus.surgery import Receipt, apply_
from tests.graph.nets import batches, build, images


def receipt_of(net: str, *, undo: bool = True) -> tuple[nn.Module, Receipt]:
    model = build(net)
    groups = find_groups(model, images(1))
    plan = plan_units(groups, {g.name: [0] for g in groups.values()})
    statistics = collect(model, batches(), groups)
    return model, apply_(model, plan, statistics, loader=batches(), undo=undo)


@pytest.mark.parametrize("undo", [True, False])
@pytest.mark.parametrize("net", ["plain", "depthwise", "flatten", "token"])
def test_a_receipt_survives_a_file(net: str, undo: bool, tmp_path: Path) -> None:
    model, receipt = receipt_of(net, undo=undo)
    path = tmp_path / "deep" / "receipt.safetensors"
    assert receipt.save(path) == path.stat().st_size
    found = Receipt.load(path)
    for name in ("params", "channels", "repairs", "batchnorms", "plan", "network", "bytes"):
        assert getattr(found, name) == getattr(receipt, name), name
    assert found.network == type(model).__name__
    if receipt.memory is None:
        assert found.memory is None
        return
    assert found.memory is not None
    assert found.memory.shapes == receipt.memory.shapes
    for part in ("dense", "cut"):
        mine, theirs = getattr(receipt.memory, part), getattr(found.memory, part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_equal_receipts_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        receipt_of("plain")[1].save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_its_size_is_the_dense_network_and_what_changed() -> None:
    dense = build("plain")
    model = build("plain")
    receipt = apply_(model, plan_units(find_groups(model, images(1)), {"conv1": [0, 1]}))
    assert receipt.memory is not None
    changed = {"conv1.weight", "conv2.weight"} | {
        f"bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }
    assert set(receipt.memory.cut) == changed
    state = model.state_dict()
    whole = sum(t.nbytes for t in dense.state_dict().values())
    assert receipt.bytes == whole + sum(state[name].nbytes for name in changed)


def write(path: Path, text: str | None) -> None:
    save_file({"x": torch.zeros(2)}, path, {"receipt": text} if text is not None else None)


def test_files_that_hold_no_receipt(tmp_path: Path) -> None:
    path = tmp_path / "receipt.safetensors"
    with pytest.raises(WeightsError, match=r"cannot be read \(No such file"):
        Receipt.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))} holds no receipt"):
        Receipt.load(path)
    for text in (None, "[]", "{", json.dumps({"format": 1})):
        write(path, text)
        with pytest.raises(WeightsError, match=r"give a file that Receipt\.save wrote"):
            Receipt.load(path)
    write(path, json.dumps({"format": 99}))
    with pytest.raises(WeightsError, match="a receipt of format 99"):
        Receipt.load(path)
