"""A run folder runs no code that its user has not named, in any command or call."""

import json
import os
from pathlib import Path

import pytest
from torch import nn

import prunus
from prunus.core import RunFolderError, WeightsError
from prunus.pipelines import EvalConfig, ScoreConfig, run_eval, run_export, run_score
from prunus.plan import Plan
from prunus.runs import FinishedRun, run_load
from tests.cli.command import prunus_

#: Building the network leaves a mark beside the file.
SOURCE = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("ran").touch()
def narrow(num_classes, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, num_classes))
"""
BRIEF = (
    *("--data", "digits", "--input-shape", "1,8,8", "--budget", "params=60%", "--device", "cpu"),
    *("--epochs", "0", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0"),
    *("--criterion", "l1", "--compensate", "none", "--set", "prune.runtimes=[]", "--export", ""),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network is built by a file in its own folder."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "net.py").write_text(SOURCE)
    assert (
        prunus_("prune", "--model", f"{folder}/net.py:narrow", *BRIEF, "--out", folder / "run") == 0
    )
    return folder


@pytest.fixture
def run(made: Path) -> Path:
    """The run, as if nothing had been imported from it yet."""
    (made / "ran").unlink(missing_ok=True)
    import sys

    for name in [name for name in sys.modules if name.startswith("prunus_external_net_")]:
        del sys.modules[name]
    return made / "run"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
    capsys.readouterr()
    assert prunus_(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "net.py" in line and "--trust" in line, line


def test_every_command_asks_for_trust(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run / "config.yaml"
    commands = (
        ("load", run),
        ("export", run, "--format", "pt2", "--out", tmp_path / "a"),
        ("score", run, "--out", tmp_path / "b"),
        ("eval", run),
        ("prune", "--config", recipe, "--out", tmp_path / "c"),
        ("train", "--config", recipe, "--out", tmp_path / "d"),
        ("push", "--config", recipe, "--out", tmp_path / "e"),
        ("prune", "--out", run, "--resume"),
    )
    for command in commands:
        refused(capsys, *command)
    assert not (run.parent / "ran").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["trust", "named"])
def test_a_file_that_is_named_or_trusted_is_run(run: Path, tmp_path: Path, way: str) -> None:
    spec = f"{run.parent}/net.py:narrow"
    given = ("--trust",) if way == "trust" else ("--model", spec)
    assert prunus_("load", run, *given) == 0
    assert prunus_("export", run, "--format", "pt2", "--out", tmp_path / "a", *given) == 0
    assert prunus_("prune", "--out", run, "--resume", *given) == 0
    assert (run.parent / "ran").exists()
    if way == "trust":
        assert prunus_("eval", run, *given) == 0
        assert prunus_("score", run, "--out", tmp_path / "b", *given) == 0


def test_every_call_asks_for_trust(run: Path) -> None:
    named = {"model": f"{run.parent}/net.py:narrow", "data": "digits", "input_shape": (1, 8, 8)}
    calls = (
        lambda trust: prunus.load(run, trust=trust),
        lambda trust: prunus.load(run, dense=True, trust=trust),
        lambda trust: run_load(run, trust=trust),
        lambda trust: run_export(run, ["pt2"], out=run.parent / "out", trust=trust),
        lambda trust: run_score(ScoreConfig(run=str(run), **named), trust=trust),
        lambda trust: run_eval(EvalConfig(run=str(run), **named), trust=trust),
        lambda trust: FinishedRun(run, prunus.runs.Journal(run).record, run, trust).model,
    )
    for call in calls:
        with pytest.raises(RunFolderError, match=r"net\.py, which is only run if you name it"):
            call(False)
    assert not (run.parent / "ran").exists()
    for call in calls:
        call(True)
    assert (run.parent / "ran").exists()


def test_a_grown_network_of_a_file_and_a_rival_of_a_recipe_are_asked_for_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    recipe = tmp_path / "config.yaml"
    spec = f"{tmp_path}/net.py:narrow"
    grown = f"version: 1\ndata: digits\nmodel: {spec}@1,2\n"
    budget = "budget: params=50%\n"
    fixed = f"version: 1\ndata: digits\nmodel: lenet300\nfixed: [{spec}]\n{budget}"
    for verb, text in (("prune", grown + budget), ("search", fixed), ("grow", grown)):
        recipe.write_text(text)
        refused(capsys, verb, "--config", recipe, "--out", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_weights_select_what_the_plan_says(made: Path, tmp_path: Path) -> None:
    """An index out of range reads memory that is not the layer's, or ends in a traceback."""
    from safetensors.torch import load_file, save_file

    out = tmp_path / "run"
    brief = [each for each in BRIEF if each != "--compensate"]
    brief.remove("none")
    assert prunus_("prune", "--model", "lenet300", *brief, "--out", out) == 0
    weights = load_file(out / "model.safetensors")
    (index,) = [name for name in weights if name.endswith(".index")]
    weights[index][3] = 10_000
    save_file(weights, out / "model.safetensors")
    sealed = (out / "record.jsonl").read_text()
    with pytest.raises(RunFolderError, match="is not the file that this run wrote"):
        prunus.load(out)
    (out / "record.jsonl").unlink()  # a stranger's journal would seal it
    with pytest.raises(prunus.PrunusError, match=r"selects are not those of plan\.json"):
        prunus.load(out, trust=True)
    assert json.loads(sealed.splitlines()[0])["event"] == "run"


def test_a_checkpoint_whose_weights_are_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(Plan().to_json())
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="it is not a regular file"):
        prunus.load(tmp_path, nn.Linear(2, 2))


def test_a_recipe_of_names_needs_no_trust(made: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = (made / "run" / "config.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("model:"))
    recipe.write_text(text.replace(line, "model: lenet300"))
    assert prunus_("train", "--config", recipe, "--out", tmp_path / "run") == 0
    prunus.load(tmp_path / "run")
