import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

from prunus.core.errors import ConfigError, ExportError, UnknownNameError
from prunus.export import (
    FORMATS,
    check_parity,
    export_model,
    export_onnx,
    require_formats,
    save_weights,
)
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.surgery import replay_
from tests.conftest import random_plan

OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
EVERY = ["onnx", pytest.param("openvino", marks=OPENVINO), "pt2"]


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    """A cut LeNet-5, whose first linear layer selects among its inputs."""
    torch.manual_seed(0)
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28)).eval()
    return replay_(model, random_plan(find_groups(model, torch.zeros(1, 1, 28, 28)), 0))


def first_file(name: str, folder: Path) -> Path:
    return FORMATS[name].files(folder)[0]


def test_the_formats() -> None:
    assert list(FORMATS) == ["onnx", "openvino", "pt2"]


@pytest.mark.parametrize("name", EVERY)
def test_every_format_computes_the_same_at_any_batch_size(
    name: str, pruned: nn.Module, tmp_path: Path
) -> None:
    path = first_file(name, tmp_path)
    images = torch.randn(8, 1, 28, 28)
    parity = export_model(pruned, images, path, name)
    assert 0 <= parity.largest_difference < 1e-5
    assert parity.images == 8
    assert sorted(tmp_path.iterdir()) == sorted(FORMATS[name].files(tmp_path))
    run = FORMATS[name].open(path)
    for batch in (1, 3, 17):
        x = torch.randn(batch, 1, 28, 28)
        with torch.no_grad():
            np.testing.assert_allclose(run(x).numpy(), pruned(x).numpy(), atol=1e-5)
    assert check_parity(pruned, images[:1], path, name).largest_difference < 1e-5
    with pytest.raises(ExportError, match="was exported from another network") as error:
        check_parity(shifted(pruned, 0.02), images, path, name)
    message = str(error.value)
    assert message.startswith(f"{path}: {FORMATS[name].runtime} differs from PyTorch by 0.02 in ")
    assert "output 'logits' at [" in message
    assert "for images of shape 8×1×28×28, more than the tolerance of 0.0001" in message


@pytest.mark.parametrize("name", EVERY)
def test_an_artefact_names_no_path_and_no_line_of_this_machine(name: str, tmp_path: Path) -> None:
    """As PyTorch's exporters write it, an artefact holds the stack of calls behind each node."""
    folder = tmp_path / "private_place"
    folder.mkdir()
    source = "from torch import nn\n\nclass Net(nn.Module):\n"
    source += "    def __init__(self):\n        super().__init__()\n"
    source += "        self.first = nn.Linear(4, 2)\n\n    def forward(self, x):\n"
    source += "        private_name = self.first(x)\n        return private_name.relu()\n"
    (folder / "net.py").write_text(source)
    model = build_model(f"{folder / 'net.py'}:Net", input_shape=(1, 1, 4))
    path = first_file(name, tmp_path)
    export_model(model, torch.randn(3, 1, 1, 4), path, name)
    content = b"".join(file.read_bytes() for file in FORMATS[name].files(tmp_path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content += b"".join(archive.read(each) for each in archive.namelist())
    private = [b"private_", b'File "', b"site-packages", str(Path.cwd()).encode(), b"/tmp"]
    private += [os.fsencode(tempfile.gettempdir()), os.fsencode(Path(torch.__file__).parent)]
    assert [each for each in private if each in content] == []
    assert b"first" in content  # names of layers are kept


def shifted(model: nn.Module, by: float) -> nn.Module:
    """Return a copy of a LeNet-5 with all its outputs higher."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_submodule("fc2").bias.add_(by)
    return other


def test_images_are_not_kept_in_an_artefact(pruned: nn.Module, tmp_path: Path) -> None:
    size = []
    for batch in (2, 400):
        export_model(pruned, torch.randn(batch, 1, 28, 28), tmp_path / "m.pt2", "pt2")
        size.append((tmp_path / "m.pt2").stat().st_size)
    assert size[0] == size[1]


class Noisy(nn.Module):
    """Another answer each time: parity cannot hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4] + torch.rand_like(x.flatten(1)[:, :4])


@pytest.mark.parametrize("name", EVERY)
def test_failed_parity_is_an_error_and_keeps_the_earlier_file(name: str, tmp_path: Path) -> None:
    files = FORMATS[name].files(tmp_path)
    for file in files:
        file.write_bytes(b"earlier")
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* was not written"):
        export_model(Noisy(), torch.randn(4, 1, 8, 8), files[0], name)
    assert [file.read_bytes() for file in files] == [b"earlier"] * len(files)
    assert sorted(tmp_path.iterdir()) == sorted(files)


class Wild(nn.Module):
    """NaN on negative images: it compares as less than any tolerance, if one is careless."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :4].sqrt()


def test_nan_does_not_pass(tmp_path: Path) -> None:
    images, path = torch.ones(2, 1, 8, 8), tmp_path / "model.pt2"
    with pytest.raises(
        ExportError, match="PyTorch itself produced NaN or infinity in output 'logi"
    ):
        export_model(Wild(), -images, path, "pt2")
    assert not list(tmp_path.iterdir())
    export_model(Wild(), images, path, "pt2")

    class Tame(Wild):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.abs())

    with pytest.raises(ExportError, match="differs from PyTorch by inf"):
        check_parity(Tame(), -images, path, "pt2")


class Branches(nn.Module):
    """Python control flow on values: not exportable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_what_cannot_be_exported_says_so_in_one_sentence(name: str, tmp_path: Path) -> None:
    title = FORMATS[name].title
    with pytest.raises(ExportError, match=f"Branches cannot be exported to {title}: ") as error:
        export_model(Branches(), torch.randn(4, 1, 8, 8), first_file(name, tmp_path), name)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


class OneByOne(nn.Module):
    """A loop over the images: an exporter may write its number into the graph, without a word."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([image.flatten() for image in x])


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_fixed_batch_is_noticed(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"cannot be exported to|fails on images of shape 4×1×8×8"
    ):
        export_model(OneByOne(), torch.randn(4, 1, 8, 8), first_file(name, tmp_path), name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EVERY)
def test_damaged_files_are_named(name: str, pruned: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 1, 28, 28)
    files = FORMATS[name].files(tmp_path)
    export_model(pruned, images, files[0], name)
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ExportError, match=f"{files[0]}: .*cannot open it") as error:
            check_parity(pruned, images, files[0], name)
        assert "\n" not in str(error.value)
        file.unlink()
        with pytest.raises(ExportError, match=f"{file} is missing: export the network again"):
            check_parity(pruned, images, files[0], name)
        file.write_bytes(whole)
    check_parity(pruned, images, files[0], name)


def test_a_changed_weight_is_noticed(pruned: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    images = torch.randn(2, 1, 28, 28)
    export_onnx(pruned, images, path)
    proto = onnx.load(path)
    largest = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(numpy_helper.from_array(changed, largest.name))
    onnx.save(proto, path)
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        check_parity(pruned, images, path)


def test_names_and_packages_that_are_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown export format 'onx' \(did you mean"):
        require_formats(["onnx", "onx"])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="is not installed: pip install openvino"):
        require_formats(["openvino"])


@OPENVINO
def test_openvino_is_imported_without_its_telemetry(pruned: nn.Module, tmp_path: Path) -> None:
    export_model(pruned, torch.ones(2, 1, 28, 28), tmp_path / "model.xml", "openvino")
    from openvino.tools.ovc import telemetry  # it sends an event on import, if it can

    assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"
    assert "openvino_telemetry" not in sys.modules


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


AND_A_SIGNAL = """
import faulthandler, signal, subprocess, sys
from pathlib import Path
import torch
from torch import nn
from prunus.export import FORMATS, export_model

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).eval()
path = Path(sys.argv[1]) / "net.xml"
export_model(net, torch.ones(2, 1, 8, 8), path, "openvino")
first, second = FORMATS["openvino"].open(path), FORMATS["openvino"].open(path)
del first
del second
subprocess.run([sys.executable, "-c", ""], check=True)
print("alive")
"""


@OPENVINO
def test_openvino_leaves_the_stack_for_signals_alone(tmp_path: Path) -> None:
    """Its Cores free it under one another; a DataLoader with workers then kills the process."""
    run = subprocess.run(
        [sys.executable, "-c", AND_A_SIGNAL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "alive"), run.stderr


class Reading(nn.Module):
    """Tokens and a mask by name; a mapping of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, *, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        read = self.embed(ids) * mask[:, :, None]
        return {"states": read, "scores": self.head(read.mean(1))}


class Pair(nn.Module):
    """Two tensors in; a tensor and a list of two out."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x + y, [x * y, x - y]


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_all_inputs_and_outputs_are_exported_in_order(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Reading().eval()
    ids, mask = torch.randint(0, 20, (4, 6)), torch.ones(4, 6)
    path = first_file(name, tmp_path)
    assert export_model(network, {"ids": ids, "mask": mask}, path, name).images == 4
    with torch.no_grad():
        expected = network(ids=ids, mask=mask)
    states, scores = FORMATS[name].open(path)(ids, mask)
    torch.testing.assert_close(states, expected["states"])
    torch.testing.assert_close(scores, expected["scores"])
    if name == "onnx":
        graph = onnx.load(path).graph
        assert [each.name for each in graph.input] == ["ids", "mask"]
        assert [each.name for each in graph.output] == ["states", "scores"]
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    export_model(Pair(), (x, y), path, name)
    for found, wanted in zip(FORMATS[name].open(path)(x, y), (x + y, x * y, x - y), strict=True):
        torch.testing.assert_close(found, wanted)
    if name == "onnx":
        graph = onnx.load(path).graph
        assert [each.name for each in graph.input] == ["x", "y"]
        assert [each.name for each in graph.output] == ["output_0", "output_1_0", "output_1_1"]


def test_each_output_is_compared(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"first": x * 2, "second": x + self.by}

    path, x = tmp_path / "model.onnx", torch.randn(3, 5)
    export_onnx(Heads(1.0), x, path)
    with pytest.raises(ExportError, match=r"differs from PyTorch by 1 in output 'second'"):
        check_parity(Heads(2.0), x, path)
