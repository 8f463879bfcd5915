"""What would fail after hours fails before the first step, and what fails last costs nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.core import DataError, ExportError, last, of_event
from prunus.pipelines.pruning import api, trial
from prunus.pipelines.pruning.run import run_prune
from prunus.runs import Loaders, RunConfig, Watch

ONE_SHOT = prunus.PruneConfig(
    iterations=1, finetune=prunus.TrainConfig(epochs=0), final=prunus.TrainConfig(epochs=0)
)
TRAINED = prunus.PruneConfig(iterations=1, final=prunus.TrainConfig(epochs=0))


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(16, 6), torch.arange(16) % 3) for _ in range(3)]


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


class NotTrained(nn.Module):
    """A network whose forward pass fails in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("no\nway")
        found: torch.Tensor = self.net(x)
        return found


def test_training_that_would_fail_is_said_first(batches: Any) -> None:
    with pytest.raises(DataError, match=r"NotTrained fails on .*RuntimeError: no way$"):
        prunus.prune(NotTrained(), batches, "macs=60%", config=TRAINED)
    small, _ = prunus.prune(NotTrained(), batches, "macs=60%", config=ONE_SHOT)
    assert small.net[0].out_features < 12


def test_labels_of_the_test_split_are_read_before_anything(
    batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **named: Any) -> None:
        raise AssertionError("the iteration was started")

    monkeypatch.setattr(api, "ps_iteration", never)
    wrong = [(x, y + 3) for x, y in batches]
    with pytest.raises(DataError, match="labels run from 3 to 5"):
        prunus.prune(net(), batches, "macs=60%", test=wrong, config=ONE_SHOT)


def test_a_trial_changes_nothing(batches: Any) -> None:
    model = net()
    x, y = (torch.cat(each) for each in zip(*batches, strict=True))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(x, y), 8, shuffle=True, generator=generator)
    groups = prunus.find_groups(model, x[:1])
    weights, drawn = copy.deepcopy(model.state_dict()), generator.get_state()
    state = torch.get_rng_state()
    loaders = Loaders(train=loader, calibration=loader, validation=loader)
    trial.try_phases(groups, loaders, ONE_SHOT, trainings=[prunus.TrainConfig(distill=0.5)])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), drawn)
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Spoilt:
    """Batches that cannot be read any more once the trial is over."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.readings = batches, 0

    def __iter__(self) -> Any:
        self.readings += 1
        if self.readings > 1:
            raise OSError("the disk is gone")
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def test_a_test_split_that_is_gone_at_the_end_costs_only_its_accuracy(
    batches: Any, tmp_path: Path
) -> None:
    small, report = prunus.prune(net(), batches, "macs=60%", test=Spoilt(batches), config=ONE_SHOT)
    rows = report.record.rows
    result = last(rows, "result")
    assert result is not None and "test_accuracy" not in result["pruned"]
    (failed,) = of_event(rows, "failed")
    assert (failed["key"], failed["reason"]) == ("test", "OSError: the disk is gone")
    report.save(tmp_path)
    assert "the disk is gone" in (tmp_path / "report.html").read_text()
    x = batches[0][0]
    torch.testing.assert_close(prunus.load(tmp_path, model=net())(x), small(x))


class Untraceable(nn.Module):
    """A network with control flow on values, which exporters refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x / 2 if x.sum() > 1e9 else x)
        return found


def test_an_export_that_fails_leaves_the_rest(batches: Any, tmp_path: Path) -> None:
    _, report = prunus.prune(Untraceable(), batches, "macs=60%", config=ONE_SHOT)
    with pytest.raises(ExportError, match="everything else is in") as error:
        report.save(tmp_path)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert {"plan.json", "model.safetensors", "record.jsonl", "report.html"} == {
        path.name for path in tmp_path.iterdir()
    }
    assert "was not written" in (tmp_path / "report.html").read_text()
    prunus.load(tmp_path, model=Untraceable())


def test_a_warning_before_a_run_of_what_cannot_be_exported(batches: Any) -> None:
    said: list[str] = []

    class Heard(Watch):
        def say(self, text: str) -> None:
            said.append(text)

    trial.try_exports(net(), batches[0][0], ("onnx", "pt2"), Heard())
    assert said == []
    trial.try_exports(Untraceable(), batches[0][0], ("onnx",), Heard())
    (text,) = said
    assert text.startswith("warning: Untraceable cannot be exported to ONNX: ")
    assert len(text) < 500 and "\n" not in text


class Two(nn.Module):
    """Two inputs by name alone, and an output that loses the batch axis of one example."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 12, 3), nn.Linear(12, 3)

    def forward(self, *, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        made = self.a(left).relu() + self.b(right).relu()
        found: torch.Tensor = self.head(made.mean((2, 3), keepdim=True).squeeze())
        return found


def test_named_inputs_and_an_output_without_an_axis() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 3, 6, 6)
    data = [{"left": x, "right": x + 1, "labels": torch.arange(12) % 3}] * 2
    small, report = prunus.prune(Two(), data, "macs=60%", config=TRAINED)
    assert small.a.out_channels < 12
    assert small(left=x, right=x).shape == (12, 3)
    result = last(report.record.rows, "result")
    assert result is not None and result["pruned"]["macs"] <= 0.6 * result["dense"]["macs"]
    assert last(report.record.rows, "timing") is not None


class Sum(nn.Module):
    """Two positional inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head((self.a(x) + self.b(y)).relu())
        return found


def test_two_inputs_side_by_side_are_trained_on_too(batches: Any) -> None:
    flat = [(x, x + 1, y) for x, y in batches]
    small, _ = prunus.prune(Sum(), flat, "macs=60%", config=TRAINED)
    assert small.a.out_features < 12
    compiled = torch.compile(Sum(), backend="eager")
    assert len(prunus.fit_(compiled, flat, prunus.TrainConfig(epochs=1))) == 1


def test_a_run_whose_export_fails_is_whole_and_resume_tries_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = prunus.TrainConfig(epochs=0)
    config = RunConfig(
        model="lenet300",
        data="digits",
        budget="params=50%",
        export=("pt2",),
        device="cpu",
        train=prunus.TrainConfig(epochs=1),
        prune=prunus.PruneConfig(
            iterations=1, intervals=False, runtimes=(), finetune=nothing, final=nothing
        ),
    )
    tried: list[str] = []

    def failing(*args: Any, **named: Any) -> None:
        raise ExportError("LeNet cannot be exported")

    def trying(*args: Any, **named: Any) -> None:
        tried.append("again")

    with monkeypatch.context() as patch:
        patch.setattr("prunus.pipelines.export.export_model", failing)
        with pytest.raises(ExportError, match="cannot be exported; everything else is in"):
            run_prune(config, tmp_path / "run")
    assert "was not written" in (tmp_path / "run/report.html").read_text()
    prunus.load(tmp_path / "run")
    monkeypatch.setattr("prunus.pipelines.pruning.run.try_phases", trying)
    journal = run_prune(config, tmp_path / "run", resume=True)
    assert not tried
    assert (tmp_path / "run/model.pt2").exists()
    assert len(of_event(journal.record.rows, "result")) == 1
    assert "was not written" not in (tmp_path / "run/report.html").read_text()
