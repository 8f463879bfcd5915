"""`prunus score` as a person uses it, in this process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prunus.models import build_model
from tests.cli.command import prunus_

QUICK = [
    *("--epochs", "1", "--iterations", "1", "--finetune-epochs", "0", "--final-epochs", "0"),
    *("--device", "cpu"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("lenet300", num_classes=10, input_shape=(1, 28, 28))
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `prunus prune`, small."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    network = ("--model", "lenet300", "--data", "digits", "--budget", "params=20%")
    assert prunus_("prune", *network, "--out", str(out), *QUICK, "--criterion", "di") == 0
    return out


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `prunus score` expecting failure; return the one sentence it prints."""
    capsys.readouterr()
    assert prunus_("score", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("prunus: ")
    return lines[0]


def test_weights_and_data_give_both_rankings(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    network = ("--model", "lenet300", "--weights", str(weights), "--data", "digits")
    settings = ("--set", "options.mu=0.2", "--set", "blocks=4", "--top", "2", "--device", "cpu")
    assert prunus_("score", *network, *settings, "--out", str(out)) == 0
    text = capsys.readouterr().out
    assert "Class information of the layers" in text
    assert text.count("least valuable") == 3
    assert "fc3: its outputs are the network's outputs" in text
    tables = text[: text.index("page: ")]
    assert max(map(len, tables.splitlines())) <= 80
    content = json.loads((out / "scores.json").read_text())
    assert content["options"] == {"mu": 0.2}
    assert content["blocks"] == 4
    assert f"page: {out / 'scores.html'}" in text
    assert "--top 2" in (out / "scores.html").read_text()


def test_a_run_is_scored_as_it_was_pruned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert prunus_("score", str(run), "--device", "cpu") == 0
    assert "lenet300, pruned, on digits" in capsys.readouterr().out
    content = json.loads((run / "scores" / "scores.json").read_text())
    assert content["criterion"] == "di"
    assert content["run"] == str(run)
    assert sum(group["units"] for group in content["groups"]) < 784 + 300 + 100
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert after == before
    assert prunus_("score", str(run), "--device", "cpu", "--criterion", "l1") == 0
    assert json.loads((run / "scores" / "scores.json").read_text())["criterion"] == "l1"


def test_bad_input_is_one_sentence(
    run: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    network = ("--model", "lenet300", "--weights", str(weights), "--data", "digits")
    good = (*network, "--out", str(out), "--device", "cpu")
    for arguments, said in (
        ((), "no model given"),
        (("--model", "lenet300"), "no data given"),
        (("--model", "lenet300", "--data", "digits"), "has no trained weights"),
        (("--model", "torchvision:resnet18", "--data", "digits"), "prunus score runs/NAME"),
        ((*good, "--criterion", "taylor2"), "unknown criterion 'taylor2'"),
        ((*good, "--criterion", "granular"), "--set parents="),
        ((*good, "--set", "options.nu=1"), "criterion 'stacked'"),
        ((*good, "--set", "mu"), "e.g. options.mu=0.2"),
        ((*good, "--set", "mu=0.2"), "mu"),
        ((*good, "--set", "options={"), "not YAML"),
        ((*good, "--set", "blocks=1"), "blocks is 1"),
        ((*good, "--sampling", "patches"), "patches"),
        ((*good, "--input-shape", "big"), "--input-shape 'big'"),
        ((*good, "--set", "device=abacus"), "abacus"),
        ((*good[:-2], "--model", "lenet5"), "conv1"),
        ((str(tmp_path / "nowhere"),), "finished run"),
        ((str(run), "--model", "lenet5"), "give only one"),
        ((str(run), "--weights", str(weights)), "give only one"),
        ((str(run), "--out", str(run)), "contains no scores"),
    ):
        assert said in fails(capsys, *arguments), arguments
        assert not out.exists(), arguments


def test_top_is_at_least_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("score", "--top", "0") == 2
    assert "--top" in capsys.readouterr().err


def test_the_last_hidden_layer_is_looked_at_whatever_the_criterion(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ("--model", "lenet300", "--weights", str(weights), "--data", "digits")
    common = (*network, "--set", "batches=2", "--set", "blocks=2", "--device", "cpu")
    contents = []
    for name, more in (
        ("traced", ("--criterion", "deep_lda", "--set", "latent.images_a_class=4")),
        ("plain", ("--criterion", "l1")),
        ("dual", ("--criterion", "l1", "--sampling", "dual")),
    ):
        out = tmp_path / name
        assert prunus_("score", *common, *more, "--out", str(out)) == 0
        page = (out / "scores.html").read_text()
        contents.append(json.loads((out / "scores.json").read_text())["latent"])
        said = " ".join(capsys.readouterr().out.split())
        assert ("discriminants sum to" in said) is (name != "dual")
        assert ("kept by sensitivity" in said) is (name == "traced")
        assert ("latent-dimensions" in page) is (name == "traced")
        assert ("covariance-between" in page) is (name != "dual")
        assert 'href="#latent"' in page
    traced, plain, dual = contents
    assert plain["traced"] is None
    chosen = traced.pop("traced")
    assert plain | {"traced": None} == traced | {"traced": None}
    assert chosen["counts"][-1] == traced["dimensions"] == 100
    assert chosen["traced_images"] == 40
    rows = (tmp_path / "traced" / "record.jsonl").read_text().splitlines()
    row = next(row for row in map(json.loads, rows) if row["event"] == "latent")
    assert chosen == {key: row[key] for key in chosen}
    assert "fc3" in dual["absent"]
    assert dual["absent"] in (tmp_path / "dual" / "scores.html").read_text().replace("&#39;", "'")
