"""Pains 1, 10 and 13: reloading, exporting and quantising what was pruned."""

import copy
import io
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunus.core.errors import ExportError
from prunus.data import DataSplits
from prunus.evaluation import accuracy
from prunus.export import export_onnx
from tests import warm
from tests.pains.conftest import Digits
from tests.pains.net import Net
from tests.pains.rival import torch_pruning_

# 1: saving and reloading -------------------------------------------------------------------


def test_1_torch_pruning_needs_unsafe_pickles_and_the_class(digits: Digits) -> None:
    model = copy.deepcopy(digits.dense)
    torch_pruning_(model, digits.example, ignored_layers=[model.head])
    for saved in (model, tp.state_dict(model)):
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        buffer.seek(0)
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            torch.load(buffer)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv1\.weight"):
        Net().load_state_dict(model.state_dict())


ANOTHER_PROCESS = """
import sys
import torch
import torch.serialization
from tests.pains.net import Net
import prunus

def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")

torch.load = torch.serialization.load = refuse
folder = sys.argv[1]
model = prunus.load(folder, model=Net())
torch.manual_seed(0)
with torch.no_grad():
    print(model(torch.randn(4, 1, 8, 8)).double().tolist())
"""


def test_1_a_fresh_process_gives_the_same_network_back(digits: Digits) -> None:
    """From plan.json and model.safetensors, by the user's own constructor."""
    printed = warm.run("-c", ANOTHER_PROCESS, str(digits.folder))
    torch.manual_seed(0)
    with torch.no_grad():
        expected = digits.pruned(torch.randn(4, 1, 8, 8)).double().tolist()
    assert printed.strip() == str(expected)


# 10: export --------------------------------------------------------------------------------


class Wanders(nn.Module):
    """Computes something else when it is exported, as code for tracing alone may."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        x = self.model(x)
        return x + 0.01 if torch.compiler.is_exporting() else x


def test_10_the_exporter_says_nothing_of_another_function(digits: Digits, tmp_path: Path) -> None:
    """Torch-Pruning ends at the module; what PyTorch's own exporter writes is not compared."""
    model = torch_pruning_(copy.deepcopy(digits.dense), digits.example)
    images = torch.randn(4, 1, 8, 8)
    wandering = Wanders(model).eval()
    with torch.no_grad():
        program = torch.export.export(wandering, (images,)).module()
        assert float((program(images) - wandering(images)).abs().max()) > 0.005


def test_10_ours_is_compared_and_refused(digits: Digits, tmp_path: Path) -> None:
    images = torch.randn(4, 1, 8, 8)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_onnx(Wanders(digits.pruned), images, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_10_a_pruned_network_runs_elsewhere_with_any_batch(digits: Digits) -> None:
    session = onnxruntime.InferenceSession(str(digits.folder / "model.onnx"))
    (name,) = (i.name for i in session.get_inputs())
    for batch in (1, 7):
        images = torch.randn(batch, 1, 8, 8)
        (found,) = session.run(None, {name: images.numpy()})
        with torch.no_grad():
            expected = digits.pruned(images)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


# 13: quantising ----------------------------------------------------------------------------


class Calibration:
    """What ONNX Runtime reads while it looks for ranges."""

    def __init__(self, name: str, batches: list[np.ndarray[Any, Any]]) -> None:
        self.rest: Iterator[dict[str, Any]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rest, None)


def accuracy_of(path: Path, data: DataSplits) -> float:
    """Return the share of validation images that an ONNX file gets right."""
    session = onnxruntime.InferenceSession(str(path))
    (name,) = (i.name for i in session.get_inputs())
    right = count = 0
    for x, y in data.validation:
        (found,) = session.run(None, {name: x.numpy()})
        right += int((torch.from_numpy(found).argmax(1) == y).sum())
        count += len(y)
    return right / count


def test_13_a_pruned_network_goes_through_static_int8(digits: Digits, tmp_path: Path) -> None:
    """Accuracy after each stage. One budget for pruning and bits together is a later issue.

    Nothing of Torch-Pruning fails here: it has no stage after the cut, and no figure of any.
    """
    from onnxruntime import quantization as ort

    path, small = digits.folder / "model.onnx", tmp_path / "int8.onnx"
    (name,) = (i.name for i in onnxruntime.InferenceSession(str(path)).get_inputs())
    batches = [x.numpy() for x, _ in digits.data.calibration]
    logging.disable(logging.WARNING)  # it advises a preparation that is not needed here
    try:
        ort.quantize_static(
            str(path),
            str(small),
            Calibration(name, batches),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
        )
    finally:
        logging.disable(logging.NOTSET)
    stages = {
        "dense": accuracy(digits.dense, digits.data.validation),
        "pruned": accuracy(digits.pruned, digits.data.validation),
        "exported": accuracy_of(path, digits.data),
        "int8": accuracy_of(small, digits.data),
    }
    assert stages["pruned"] > stages["dense"] - 0.05
    assert stages["exported"] == pytest.approx(stages["pruned"], abs=0.005)
    assert stages["int8"] > stages["exported"] - 0.03
    import onnx

    kinds = [node.op_type for node in onnx.load(small).graph.node]
    assert (
        kinds.count("QuantizeLinear") >= 4
    )  # asserted, for tools have put in none and been silent
