"""The README keeps its word: its Python runs, its commands parse, its flags exist."""

import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch_pruning
import typer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.cli import app
from prunus.data import load_data

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GROUP: Any = typer.main.get_command(app)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    """Yield the words of every `prunus …` in a block of the shell's."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.partition(" #")[0].split(";"):
                words = shlex.split(part)
                if words[:1] == ["prunus"]:
                    yield words[1:]


class MyNet(nn.Sequential):
    """What a user brings: a small network for digits."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


class MyModule(L.LightningModule):
    """The same network, with its training."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MyNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the README takes for granted, on a few digits, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    data = load_data("digits", input_shape=(1, 8, 8), batch_size=256)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return {
        "prunus": prunus,
        "model": MyNet(),
        "module": MyModule(),
        "loader": DataLoader(TensorDataset(*next(iter(data.calibration))), batch_size=64),
        "held_out": data.validation,
        "example": torch.zeros(1, 1, 8, 8),
        "MyNet": MyNet,
        "MyModule": MyModule,
        "tp": torch_pruning,
        "Trainer": partial(L.Trainer, accelerator="cpu", enable_model_summary=False, **quiet),
    }


@pytest.mark.filterwarnings("ignore")  # of Lightning, on loaders without workers
def test_the_python_blocks_run_one_after_the_other(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, steps, latent, both_ways, callback = blocks("python")
    exec(whole, names)
    assert "MACs" in capsys.readouterr().out
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(names["again"](x), names["small"](x))
    before = deepcopy(names["model"].state_dict())
    exec(steps, names)
    exec(latent, names)
    after = names["model"].state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())  # undone
    assert names["plan"].groups
    exec(both_ways, names | {"model": deepcopy(names["model"])})
    exec(callback, names)
    assert sum(p.numel() for p in names["small"].parameters()) < sum(
        p.numel() for p in MyModule().parameters()
    )


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_command_parses(words: list[str]) -> None:
    verb, *rest = words
    assert verb in GROUP.commands
    GROUP.commands[verb].make_context(verb, rest)


def test_every_flag_exists() -> None:
    known = {
        name
        for command in GROUP.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named
    assert named <= known | {"--version", "--help"}


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
