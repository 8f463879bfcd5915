"""Bad input ends in one sentence, exit code 2, and leaves earlier artefacts whole."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import prunus
from prunus.cli import main
from prunus.core.errors import NonFiniteError
from prunus.data import load_data
from prunus.models import build_model

BASE = {"model": "lenet5", "data": "digits", "budget": "params=10%"}


@pytest.fixture
def fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run `prunus prune` expecting failure; return the one sentence it prints."""

    def run(*more: str, **changed: str) -> str:
        flags = [f for k, v in {**BASE, **changed}.items() for f in (f"--{k}", v)]
        out = [] if "--out" in more else ["--out", str(tmp_path / "run")]
        monkeypatch.setattr(
            sys, "argv", ["prunus", "prune", *flags, *out, "--device", "cpu", *more]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert stop.value.code == 2
        lines = printed.err.strip().splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("prunus: ")
        assert not (tmp_path / "run").exists()  # nothing is begun before the input is good
        return lines[0]

    return run


def test_unknown_names_list_the_known_ones(fails: Callable[..., str]) -> None:
    assert "unknown model 'lenet6' (did you mean 'lenet5'?)" in fails(model="lenet6")
    assert "resnet56" in fails(model="lenet6")
    message = fails(data="digit")
    assert "'digit'" in message
    assert "mnist" in message
    message = fails("--criterion", "taylor2")
    assert "unknown criterion 'taylor2'" in message
    assert "stacked" in message


def test_weights_that_do_not_fit(fails: Callable[..., str], tmp_path: Path) -> None:
    model = build_model("lenet5", num_classes=7, input_shape=(1, 28, 28))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    message = fails("--weights", str(tmp_path / "w.safetensors"))
    assert "fc2.weight" in message
    assert "(7, 500)" in message
    assert "(10, 500)" in message


@pytest.mark.parametrize("budget", ["params", "params=", "params=ten", "size=3", "macs=0%", ""])
def test_a_budget_that_cannot_be_parsed(fails: Callable[..., str], budget: str) -> None:
    message = fails(budget=budget)
    assert f"budget {budget!r} cannot be read" in message
    assert "macs=50%" in message


def test_a_percentage_above_the_whole(fails: Callable[..., str]) -> None:
    assert "at most 100%" in fails(budget="macs=150%")


def test_an_accuracy_that_cannot_be_read(fails: Callable[..., str]) -> None:
    assert "accuracy is a floor" in fails(budget="accuracy<=97%")
    assert "accuracy is a floor" in fails(budget="accuracy>=150%")


def test_milliseconds_that_cannot_be_reached(fails: Callable[..., str]) -> None:
    assert "the least is ms=" in fails(budget="ms=0.1%")


def test_a_dense_network_below_the_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    flags = ["--model", "lenet300", "--data", "digits", "--budget", "accuracy>=99.9%"]
    flags += ["--epochs", "1", "--device", "cpu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["prunus", "prune", *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "the dense network's validation accuracy is" in capsys.readouterr().err
    assert '"prune"' not in (out / "record.jsonl").read_text()


def test_a_budget_that_cannot_be_reached(fails: Callable[..., str]) -> None:
    message = fails(budget="params=40")
    least = int(message.partition("params=")[2].split()[0])
    assert 40 < least < 200  # one unit a group
    assert "431080" in message


def image_folder(root: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 40), (i * 7 % 255, 10, 90)).save(root / name / f"{i}.png")
    return root


def test_an_empty_folder(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    message = fails(data=f"folder:{tmp_path / 'images'}", model="torchvision:resnet18")
    assert str(tmp_path / "images") in message


def test_a_single_class_folder(fails: Callable[..., str], tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", {"cat": 5})
    message = fails(data=f"folder:{root}", model="torchvision:resnet18")
    assert "cat" in message
    assert "two" in message or "2" in message


def test_an_unreadable_image_is_named(fails: Callable[..., str], tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", {"cat": 5, "dog": 5})
    (root / "dog" / "3.png").write_bytes(b"not a picture")
    message = fails(data=f"folder:{root}", model="torchvision:resnet18")
    assert str(root / "dog" / "3.png") in message


def test_nan_weights_name_the_module(fails: Callable[..., str], tmp_path: Path) -> None:
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28))
    with torch.no_grad():
        model.conv2.weight[3, 1] = float("nan")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert "conv2" in fails("--weights", str(tmp_path / "w.safetensors"))


def test_nan_activations_name_the_module() -> None:
    class Diverges(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor(float("inf")) * 0

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Diverges(), nn.Conv2d(4, 4, 3), nn.Flatten())
    data = load_data("digits").calibration
    groups = prunus.find_groups(model, torch.zeros(1, 1, 28, 28), verify=False)
    with pytest.raises(NonFiniteError, match="module '1'"):
        prunus.collect(model, data, groups, teacher=10)


def test_an_output_folder_with_another_run(fails: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "taken"
    quick = ["--epochs", "1", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0"]
    with pytest.MonkeyPatch.context() as patch:
        flags = [f for k, v in BASE.items() for f in (f"--{k}", v)]
        command = ["prunus", "prune", *flags, "--out", str(out), "--device", "cpu", *quick]
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    message = fails("--out", str(out), *quick)
    assert "already contains a run (lenet5 on digits, params=10%)" in message
    assert "--resume" in message
    message = fails("--out", str(out), *quick, "--resume", model="lenet300")
    assert "model 'lenet5'" in message
    assert "'lenet300'" in message
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_folder_that_is_no_run_is_left_alone(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(b"cat")
    assert "not empty" in fails("--out", str(tmp_path / "photos"))
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


NETWORKS = """
import torch
from torch import nn
class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(99, 10)
    def forward(self, x):
        return self.head(self.stem(x).flatten(1))
def broken():
    return Broken()
def alone():
    return nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def frozen(num_classes):
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
    return net.requires_grad_(False)
"""


def test_a_network_that_cannot_be_traced(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORKS)
    message = fails(model=f"{tmp_path / 'nets.py'}:broken")
    assert "Broken cannot be traced: its module 'head' (Linear)" in message


def test_a_model_in_which_nothing_can_be_pruned(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORKS)
    message = fails(model=f"{tmp_path / 'nets.py'}:alone")
    assert "nothing can be pruned" in message
    assert "its outputs are the network's outputs" in message


def test_frozen_parameters_are_cut_all_the_same() -> None:
    space: dict[str, Callable[..., nn.Module]] = {}
    exec(NETWORKS, space)
    model = space["frozen"](10)
    data = load_data("digits", batch_size=256)
    settings = prunus.PruneConfig(
        iterations=1,
        finetune=prunus.TrainConfig(epochs=0),
        final=prunus.TrainConfig(epochs=0),
    )
    small, _ = prunus.prune(model, data.train, "macs=50%", config=settings, device="cpu")
    count = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    assert count[1] < 0.8 * count[0]
    assert not any(p.requires_grad for p in small.parameters())


def test_settings_out_of_range(fails: Callable[..., str]) -> None:
    assert "prune.iterations is 0" in fails("--iterations", "0")
    assert "speed" in fails("--set", "train.speed=3")
    assert "KEY=VALUE" in fails("--set", "train.lr")
    assert "prune.compensate is 'magic'" in fails("--compensate", "magic")
    assert "prune.round_to is 0" in fails("--round-to", "0")
    assert "prune.runtimes.0 is 'tensorrt', but" in fails("--runtime", "tensorrt")
    assert "keep_class: unknown class 'ten', expected an index or one of 0, 1" in fails(
        "--keep-class", "ten"
    )
    assert "prune.parents" in fails("--criterion", "granular")
    assert "pool:G" in fails("--set", "prune.sampling=pool")
    assert "--input-shape 'big'" in fails("--input-shape", "big")
    assert "turbo" in fails("--precision", "turbo")


def test_the_exit_code_of_the_real_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prunus", "prune", "--out", "unused"],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stderr == "prunus: no model given: pass --model, or --config with one\n"
