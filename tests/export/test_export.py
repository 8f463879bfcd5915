import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prunus.core.errors import ExportError
from prunus.export import export_onnx, save_weights
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.surgery import replay_
from tests.conftest import random_plan


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    """A cut LeNet-5, whose first linear layer selects among its inputs."""
    torch.manual_seed(0)
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28)).eval()
    return replay_(model, random_plan(find_groups(model, torch.zeros(1, 1, 28, 28)), 0))


def test_onnx_computes_the_same_at_any_batch_size(pruned: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    parity = export_onnx(pruned, torch.randn(8, 1, 28, 28), path)
    assert 0 <= parity.largest_difference < 1e-4
    assert parity.images == 8
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3, 17):
        x = torch.randn(batch, 1, 28, 28)
        (found,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, pruned(x).numpy(), atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


class Noisy(nn.Module):
    """Another answer each time: parity cannot hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4] + torch.rand_like(x.flatten(1)[:, :4])


def test_failed_parity_is_an_error_and_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        export_onnx(Noisy(), torch.randn(4, 1, 8, 8), path)
    assert path.read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


class Branches(nn.Module):
    """Python control flow on values: not exportable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


def test_what_cannot_be_exported_says_so_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Branches cannot be exported to ONNX") as error:
        export_onnx(Branches(), torch.randn(4, 1, 8, 8), tmp_path / "model.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_equal_networks_give_equal_files(pruned: nn.Module, tmp_path: Path) -> None:
    size = save_weights(pruned, tmp_path / "a.safetensors")
    save_weights(copy.deepcopy(pruned), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.safetensors").stat().st_size == size
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert torch.equal(tensor, pruned.state_dict()[name])


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "m.safetensors")
    assert set(load_file(tmp_path / "m.safetensors")) == set(model.state_dict())
