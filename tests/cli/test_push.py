"""`prunus push` as a person uses it, in this process."""

from pathlib import Path

import pytest
import torch

import prunus
from prunus.core.record import read_rows
from prunus.criteria import latent_utility
from prunus.data import load_data
from tests.cli.command import prunus_

NET = ("--model", "lenet300", "--data", "digits", "--device", "cpu")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    plain, out = folder / "plain", folder / "pushed"
    assert prunus_("train", *NET, "--epochs", "6", "--out", plain) == 0
    weights = plain / "model.safetensors"
    code = prunus_("push", *NET, "--weights", weights, "--epochs", "4", "--out", out)
    assert code == 0
    return out, str(weights)


def rows_of(out: Path, event: str) -> list[dict]:
    return [row for row in read_rows(out / "record.jsonl")[0] if row["event"] == event]


def test_push_raises_the_discriminants_and_says_so(pushed: tuple[Path, str]) -> None:
    out, _ = pushed
    before, after = rows_of(out, "latent")
    assert (before["network"], after["network"]) == ("before", "after")
    assert sum(after["discriminants"]) > 1.5 * sum(before["discriminants"])
    assert sum(after["held_out"]) > sum(before["held_out"])
    epochs = rows_of(out, "fit")[0]["epochs"]
    assert len(epochs) == 4
    assert all(row["push_loss"] > 0 for row in epochs)
    (trained,) = rows_of(out, "trained")
    assert trained["test_accuracy"] > 0.9


def test_the_rows_are_those_of_the_network(pushed: tuple[Path, str]) -> None:
    out, _ = pushed
    model = prunus.load(out)
    data = load_data("digits")
    groups = prunus.find_groups(model, torch.zeros(1, *data.input_shape))
    latent = latent_utility(groups, prunus.collect(model, data.validation, groups, blocks=1))
    held_out = rows_of(out, "latent")[1]["held_out"]
    assert held_out == pytest.approx(latent.eigenvalues.tolist(), rel=1e-6)


def test_push_prints_both_networks_and_resumes_to_nothing(
    pushed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = pushed
    before = (out / "record.jsonl").read_bytes()
    code = prunus_("push", *NET, "--weights", weights, "--epochs", "4", "--out", out, "--resume")
    assert code == 0
    text = capsys.readouterr().out
    assert "input of fc3" in text
    assert "before" in text and "after" in text
    assert "sum of discriminants, validation" in text
    assert (out / "record.jsonl").read_bytes() == before


def test_what_cannot_be_pushed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_("push", *NET, "--form", "best", "--out", tmp_path / "a") == 2
    assert "form" in capsys.readouterr().err
    assert prunus_("push", "--data", "digits", "--out", tmp_path / "b") == 2
    assert "no model given" in capsys.readouterr().err
