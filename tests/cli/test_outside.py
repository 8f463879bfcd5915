"""A network of the user's own file goes through doctor, prune, export and load, each a process."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch

import prunus
from prunus.core.record import Row, read_rows
from prunus.data import load_data
from prunus.evaluation import accuracy
from prunus.plan import Plan
from tests import warm

SOURCE = '''
"""A residual block, then attention over the positions: nothing of Prunus is imported."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        B, N, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, N, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, -1)
        return x + self.out(y)


class Mixed(nn.Module):
    def __init__(self, width, hidden, heads, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 7, stride=7)
        self.block = Block(width, hidden)
        self.attention = Attention(width, heads)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        x = self.block(torch.relu(self.stem(images)))
        x = x.reshape(x.shape[0], x.shape[1], -1).transpose(1, 2)
        return self.head(self.attention(x).mean(1))


def mixed(num_classes):
    print("made")
    return Mixed(width=16, hidden=24, heads=4, num_classes=num_classes)
'''


def process(folder: Path, *arguments: str) -> str:
    """Run `python -m prunus` in `folder`, which must succeed; return what it printed."""
    return warm.run("-m", "prunus", *arguments, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user works: the file of the network, and after the first test a run."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_net.py").write_text(SOURCE)
    return folder


@pytest.mark.slow
def test_doctor(folder: Path) -> None:
    shape = ("--input-shape", "1,28,28", "--json")
    found = json.loads(process(folder, "doctor", "my_net.py:mixed", *shape))
    assert found["status"] == "healthy"
    assert found["network"] == "Mixed"
    units = {group["name"]: group["units"] for group in found["groups"]}
    assert units["block.conv1"] == 24
    assert 16 in units.values()  # the stream of the residual sums
    assert 4 in units.values()  # the heads


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Prune by the command line, in a process of its own."""
    network = ("--model", "my_net.py:mixed", "--data", "digits", "--budget", "macs=60%")
    quick = ("--epochs", "2", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "1")
    cheap = ("--criterion", "l1", "--compensate", "none", "--device", "cpu")
    printed = process(folder, "prune", *network, "--out", "run", *quick, *cheap)
    assert "model.onnx: ONNX Runtime differs from PyTorch by at most" in printed
    return folder / "run"


def last(run: Path, event: str) -> Row:
    return [row for row in read_rows(run / "record.jsonl")[0] if row["event"] == event][-1]


@pytest.mark.slow
def test_what_was_removed_is_recorded_by_index(run: Path) -> None:
    plan = Plan.from_json((run / "plan.json").read_text())
    dense, pruned = (prunus.load(run, dense=dense, trust=True) for dense in (True, False))
    cut = 0
    for name in ("stem", "block.conv1", "block.conv2", "attention.qkv"):
        edit = plan.modules.get(name, {}).get("out")
        before, after = (model.get_submodule(name) for model in (dense, pruned))
        if edit is not None:
            assert edit.of == before.weight.shape[0]
            assert after.weight.shape[0] == edit.of - len(edit.removed) == len(edit.kept())
            cut += len(edit.removed)
    assert cut
    assert sum(p.numel() for p in dense.parameters()) == last(run, "result")["dense"]["params"]


@pytest.mark.slow
def test_export_and_load_in_other_processes(run: Path) -> None:
    printed = process(run.parent, "export", "run", "--format", "pt2", "--trust")
    assert "run/model.pt2: torch.export.load differs from PyTorch by at most" in printed
    audit = json.loads(process(Path("/"), "load", str(run), "--trust", "--json"))
    assert audit["status"] == "intact"
    assert audit["network"] == "Mixed"
    assert {check["status"] for check in audit["checks"]} == {"same"}
    found = {check["subject"]: check["found"] for check in audit["checks"]}
    assert found["pruned parameters"] == last(run, "result")["pruned"]["params"]
    assert found["model.onnx outputs"] < 1e-5
    assert found["model.pt2 outputs"] < 1e-5


@pytest.mark.slow
def test_the_loaded_network_is_the_one_that_was_measured_and_saved(run: Path) -> None:
    model = prunus.load(run, trust=True)
    images = next(iter(load_data("digits", seed=0).test))[0]
    with torch.no_grad():
        expected = model(images)
    session = onnxruntime.InferenceSession(str(run / "model.onnx"))
    saved = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(saved, expected, atol=1e-5, rtol=0)
    again = accuracy(model, load_data("digits", seed=0).test)
    assert again == last(run, "result")["pruned"]["test_accuracy"]
