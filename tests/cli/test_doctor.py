"""`prunus doctor` as a person uses it, in this process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunus.models import build_model
from tests.cli.command import prunus_

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden=True):
        super().__init__()
        print("made")
        self.a = nn.Conv2d(3, 6, 3, padding=1) if hidden else nn.Identity()
        self.b = nn.Linear(384 if hidden else 192, 12) if hidden else nn.Identity()
        self.c = nn.Conv2d(3, 4, 8) if not hidden else nn.Linear(12, 4)

    def forward(self, x):
        print("ran")
        if isinstance(self.a, nn.Identity):
            return self.c(x)
        x = torch.relu(self.a(x))
        x = x.view(-1, 384)
        return self.c(torch.relu(self.b(x)))


def bare():
    return Net(hidden=False)


def broken():
    net = Net()
    net.b = nn.Linear(7, 12)
    return net
"""
LINE = 1 + SOURCE.splitlines().index("        x = x.view(-1, 384)")


def doctor(*arguments: str | Path) -> int:
    """Run the command; return its exit code."""
    return prunus_("doctor", *arguments)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the user's own, outside the project."""
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def test_a_healthy_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("lenet5") == 0
    text = capsys.readouterr().out
    assert "LeNet5, input 1×28×28" in text
    assert "Healthy: 4 groups can be pruned" in text
    assert "fc2: the network's outputs, which are kept" in text
    assert "smallest budgets, each on its own: macs=" in text
    assert "What cannot be pruned" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_weights_are_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_model("lenet5", num_classes=7, input_shape=(1, 28, 28))
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path)
    assert doctor("lenet5", "--weights", str(path), "--num-classes", "7", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"] == sum(p.numel() for p in model.parameters())


def test_a_fixed_size_in_a_file_of_the_users_own(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(f"{file}:Net", "--input-shape", "3,8,8") == 1
    text = capsys.readouterr().out
    assert "1 more could be" in text
    assert f"net.py:{LINE}" in text
    assert doctor(f"{file}:Net", "--input-shape", "3,8,8", "--json") == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)  # what the network prints is elsewhere
    assert "ran" in printed.err
    [finding] = found["findings"]
    assert finding["module"] == "a"
    assert f"(at net.py:{LINE})" in finding["reason"]
    assert finding["fault"] is True
    assert found["status"] == "faulty"


def test_nothing_can_be_pruned(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(f"{file}:bare", "--input-shape", "3,8,8") == 2
    assert "Nothing can be pruned." in capsys.readouterr().out
    assert doctor(f"{file}:bare", "--input-shape", "3,8,8", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "unprunable"
    assert found["groups"] == []


def test_bad_input_is_one_sentence(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save([1], tmp_path / "w.pt")
    for arguments, said in (
        (("lenet6",), "did you mean 'lenet5'?"),
        (("timm:lenet",), "timm has no network 'lenet'"),
        ((str(tmp_path / "no.py") + ":Net",), "cannot be read"),
        ((f"{file}:Nut",), "no callable 'Nut'"),
        (("lenet5", "--input-shape", "big"), "--input-shape 'big'"),
        (("lenet5", "--input-shape", "1,28"), "channels, height and width"),
        (("lenet5", "--num-classes", "0"), "num_classes is 0"),
        (("lenet5", "--weights", str(tmp_path / "no.pt")), "no weight file"),
        (("lenet5", "--weights", str(tmp_path / "w.pt")), "state dict"),
        ((f"{file}:broken", "--input-shape", "3,8,8"), "(at net.py:"),
        ((f"{file}:broken", "--input-shape", "3,8,8", "--json"), "(at net.py:"),
        ((f"{file}:broken",), "No --input-shape given, so 3,224,224 was used"),
    ):
        capsys.readouterr()
        assert doctor(*arguments) == 2, arguments
        printed = capsys.readouterr()
        said_by_us = [line for line in printed.err.splitlines() if line not in ("made", "ran")]
        assert len(said_by_us) == 1, printed.err
        assert said_by_us[0].startswith("prunus: ")
        assert said in said_by_us[0], arguments
        if "--json" in arguments:
            assert printed.out == ""


def test_the_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("--help") == 0
    text = capsys.readouterr().out
    assert all(f"Exit code {code}:" in text for code in (0, 1, 2))
