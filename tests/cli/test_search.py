"""`prunus search` as a person uses it: digits, end to end."""

from pathlib import Path

import pytest
import torch

import prunus
from prunus.core.record import read_rows
from tests.cli.command import prunus_
from tests.pipelines import growing_net

NET = f"{growing_net.__file__}:Net"
SEARCH = (
    *("search", "--model", NET, "--data", "digits", "--input-shape", "1,8,8"),
    *("--device", "cpu", "--budget", "params=60%", "--workers", "1", "--steps", "1"),
    *("--base-epochs", "1", "--candidate-epochs", "1", "--epochs", "1", "--iterations", "1"),
    *("--finetune-epochs", "1", "--final-epochs", "1", "--set", "grow.images=300"),
)


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_from_a_name_to_a_smaller_network_and_its_rivals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search"
    assert prunus_(*SEARCH, "--rivals", "l1/global", "--out", out) == 0
    text = plain(capsys.readouterr().out)
    arms = [row for row in read_rows(out / "record.jsonl")[0] if row["event"] == "arm"]
    for row in (network for arm in arms for network in arm["networks"]):
        if row["test_accuracy"] is not None:
            costs = f"{row['params']:,} {row['macs']:,}".replace(",", " ")
            assert f"{costs} {100 * row['validation_accuracy']:.2f} %" in text
    assert "Lead of the derived networks at equal parameters" in text
    assert f"report: {out / 'report.html'}" in text
    small = prunus.load(out / "derived", trust=True)
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    (derived,) = (arm["networks"][-1] for arm in arms if arm["key"] == "derived")
    (pushed,) = (arm["networks"][-1] for arm in arms if arm["key"] == "pushed")
    assert derived["params"] <= 0.6 * pushed["params"]
    assert (out / "derived" / "model.onnx").exists()
    assert prunus_("search", "--out", out, "--resume", "--trust") == 0  # finished: it only prints
    assert plain(capsys.readouterr().out) in text
    assert prunus_("report", out) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rivals", "l3"), "rival 'l3'"),
        (("--fixed", "lenet3"), "lenet3"),
        (("--scratch", "some"), "scratch"),
        (("--no-grow", "--set", "prune.final.push={}"), "prune.final.push"),
    ],
)
def test_bad_input_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert prunus_(*SEARCH, *flags, "--out", tmp_path / "bad") == 2
    said = capsys.readouterr().err
    assert said.startswith("prunus: ")
    assert len(said.strip().splitlines()) == 1
    assert words in said
    assert not (tmp_path / "bad").exists()
