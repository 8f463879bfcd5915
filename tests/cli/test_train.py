"""`prunus train`, `eval`, `models` and `data` as a person uses them, in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prunus
from prunus.core.record import read_rows
from prunus.data import DATASETS
from prunus.models import MODELS
from prunus.pipelines.evaluate import wilson
from tests.cli.command import prunus_
from tests.journal import check_rows

LENET = ("--model", "lenet300", "--data", "digits", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dense"
    assert prunus_("train", *LENET, "--epochs", "6", "--out", str(out)) == 0
    return out


def test_train_writes_a_run_that_loads(trained: Path) -> None:
    rows = read_rows(trained / "record.jsonl")[0]
    assert check_rows(rows) == {"run", "fit", "files", "trained"}
    row = next(row for row in rows if row["event"] == "trained")
    assert row["test_accuracy"] > 0.9
    assert row["params"] == 266_610
    assert row["test_images"] == 359
    assert prunus.load(trained)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert prunus_("load", trained) == 0


def test_eval_finds_what_training_measured(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(trained / "record.jsonl")[0]
    row = next(row for row in rows if row["event"] == "trained")
    assert prunus_("eval", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"] == {"accuracy": row["test_accuracy"]}
    assert found["images"] == 359
    assert found["interval"] == list(wilson(row["test_accuracy"], 359))
    weights = trained / "model.safetensors"
    assert prunus_("eval", *LENET, "--weights", weights, "--split", "validation") == 0
    text = " ".join(capsys.readouterr().out.replace("\u00a0", " ").split())
    assert f"accuracy {100 * row['validation_accuracy']:.2f} % of 359 images (95 %" in text
    assert "266 610 parameters" in text


def test_a_trained_run_is_what_prune_starts_from(trained: Path, tmp_path: Path) -> None:
    quick = ("--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0")
    code = prunus_(
        *("prune", "--config", trained / "config.yaml", "--budget", "params=50%", *quick),
        *("--weights", trained / "model.safetensors", "--out", tmp_path / "cut"),
    )
    assert code == 0
    rows = read_rows(tmp_path / "cut" / "record.jsonl")[0]
    result = next(row for row in rows if row["event"] == "result")
    assert result["dense"]["test_accuracy"] > 0.9
    assert result["pruned"]["params"] <= 133_305


def test_resume_of_a_finished_run_measures_nothing_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "record.jsonl").read_bytes()
    assert prunus_("train", "--out", trained, "--resume") == 0
    assert "test accuracy" in capsys.readouterr().out
    assert (trained / "record.jsonl").read_bytes() == before
    assert prunus_("train", *LENET, "--out", trained) == 2
    assert "already contains a run (lenet300 on digits, trained)" in capsys.readouterr().err


def test_prune_without_a_budget_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("prune", *LENET, "--out", tmp_path / "run") == 2
    assert "no budget given" in capsys.readouterr().err


def test_pairs_of_images_have_no_classes_to_prune_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(7):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    pairs = ("--model", "dncnn", "--data", f"denoise:25:{tmp_path}", "--device", "cpu")
    assert prunus_("prune", *pairs, "--budget", "macs=50%", "--out", tmp_path / "run") == 2
    assert "contains pairs of images, and `prunus prune` needs class" in capsys.readouterr().err


def test_eval_says_that_random_weights_are_random(capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("eval", *LENET) == 0
    assert "no weights given" in capsys.readouterr().out


def test_eval_of_two_kinds_of_weights_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_("eval", trained, "--weights", trained / "model.safetensors") == 2
    assert "give only one" in capsys.readouterr().err
    assert prunus_("eval", *LENET, "--split", "all") == 2
    assert "split is 'all'" in capsys.readouterr().err


def test_models_lists_every_name_with_sizes_and_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert prunus_("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(MODELS)
    assert rows["resnet56"]["params"] == 853_018
    assert all(row["params"] > 0 and row["source"] for row in rows.values())
    assert prunus_("models", "lenet", "--macs") == 0
    text = capsys.readouterr().out.replace("\u00a0", " ")
    assert "431 080" in text
    assert "2.29 M" in text
    assert "resnet56" not in text
    assert prunus_("models", "no_such") == 0
    assert "No matching network" in capsys.readouterr().out


def test_data_lists_every_name_and_what_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_("data", "--data-root", tmp_path, "--json") == 0
    rows = {row["name"].partition(":")[0]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(DATASETS)
    assert rows["digits"]["path"] is not None
    assert rows["mnist"]["path"] is None
    assert all(row["source"] and row["terms"] for row in rows.values())
    assert prunus_("data", "--data-root", tmp_path) == 0
    assert "mnist" in capsys.readouterr().out


def test_public_weights_reproduce_their_accuracy(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shared_data / "weights" / "resnet20_cifar10.safetensors"
    network = ("--model", "resnet20", "--weights", weights, "--device", "cpu", "--json")
    assert prunus_("eval", *network, "--data", "cifar10", "--data-root", shared_data) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 10_000
    assert found["quality"]["accuracy"] == pytest.approx(0.9173, abs=1e-4)
