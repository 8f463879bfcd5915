"""`prunus grow` as a person uses it, and what other verbs do with a grown name."""

import json
from pathlib import Path

import pytest
import torch

import prunus
from prunus.core.record import read_rows
from tests.cli.command import prunus_
from tests.pipelines import growing_net

NET = f"{growing_net.__file__}:Net"
DIGITS = ("--data", "digits", "--input-shape", "1,8,8", "--device", "cpu")
GROW = (
    *("grow", "--model", NET, *DIGITS, "--workers", "1", "--set", "grow.images=300"),
    *("--base-epochs", "1", "--candidate-epochs", "1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "grown"
    assert prunus_(*GROW, "--steps", "1", "--epochs", "1", "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def name(run: Path) -> str:
    rows = read_rows(run / "record.jsonl")[0]
    return str(next(row for row in rows if row["event"] == "grown")["model"])


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_it_tells_what_it_tried_and_what_it_kept(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_("grow", "--out", run, "--resume", "--trust") == 0  # finished: it only prints
    text = plain(capsys.readouterr().out)
    rows = read_rows(run / "record.jsonl")[0]
    steps = [row for row in rows if row["event"] == "step"]
    for row in steps:
        costs = f"{row['params']:,} {row['macs']:,}".replace(",", " ")
        shares = f"{100 * row['accuracy']:.2f} % {100 * row['information']:.2f} %"
        line = f"{','.join(map(str, row['sizes']))} {costs} {shares}"
        assert line in text
        assert (f"{line} kept" in text) == (row["model"] == name)
    assert "Growing stopped: steps=1 reached." in text
    chose = steps[1]["choices"]
    same = int(chose["accuracy"] == chose["information"])
    assert f"it would have chosen the same stage in {same} of 1 steps" in text
    assert f"Net@{name.rpartition('@')[2]}: test accuracy" in text


def test_other_verbs_take_the_grown_network(
    run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "@" in name
    weights = run / "grown/model.safetensors"
    assert prunus.load(run / "grown", trust=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert prunus_("load", run / "grown", "--trust") == 0
    capsys.readouterr()
    assert prunus_("eval", "--model", name, "--weights", weights, *DIGITS, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    trained = read_rows(run / "grown/record.jsonl")[0]
    row = next(row for row in trained if row["event"] == "trained")
    assert found["quality"] == {"accuracy": row["test_accuracy"]}
    assert found["params"] == row["params"]
    quick = ("--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0")
    out = tmp_path / "cut"
    code = prunus_(
        *("prune", "--model", name, "--weights", weights, *DIGITS, *quick, "--out", out),
        *("--budget", "params=70%", "--export", "", "--set", "prune.runtimes=[]"),
    )
    assert code == 0
    cut = prunus.load(out, trust=True)
    assert sum(p.numel() for p in cut.parameters()) <= 0.7 * row["params"]
    assert cut.stage_sizes == prunus.load(run / "grown", trust=True).stage_sizes


def test_models_shows_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("models", "lenet", "--json") == 0
    rows = {row["name"]: row["stages"] for row in json.loads(capsys.readouterr().out)}
    assert (rows["googlenet"], rows["lenet5"]) == ([2, 5, 2], None)
    assert prunus_("models", "resnet5") == 0
    text = plain(capsys.readouterr().out)
    assert "853 018 @9,9,9" in text
    assert "modules per stage (e.g. imagenet_resnet50@3,4,6,4)" in text
    assert prunus_("models", "lenet5") == 0
    assert "modules a stage" not in plain(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--model", "lenet300"), "LeNet300 declares no stages"),
        (("--model", f"{NET}@0,9"), "would make stage 0 smaller"),
        (("--choose", "luck"), "grow.choose is 'luck'"),
        (("--steps", "0"), "grow.steps is 0"),
        (("--workers", "0"), "workers is 0"),
        (("--budget", "accuracy<=1"), "cannot be read"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    changed: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_(*GROW, *changed, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("prunus: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_missing_name_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("grow", "--data", "digits", "--out", tmp_path / "run") == 2
    assert "no model given: pass --model" in capsys.readouterr().err
