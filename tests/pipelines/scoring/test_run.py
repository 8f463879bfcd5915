"""`run_score`: the numbers are those of the rooms below, and what is written says them all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prunus.core.errors import ConfigError, RunFolderError
from prunus.core.record import read_rows
from prunus.criteria import CRITERIA, rank_layers, score
from prunus.data import load_data
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.pipelines import ScoreConfig, ScoreReport, run_score
from prunus.statistics import collect

FILES = {"config.yaml", "record.jsonl", "scores.json", "scores.html"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ScoreConfig:
    """LeNet-5 with weights of its own on the digits, a quarter of the images."""
    torch.manual_seed(0)
    model = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28))
    weights = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(model.state_dict(), weights)
    return ScoreConfig(
        model="lenet5", data="digits", weights=str(weights), batches=4, batch_size=64, device="cpu"
    )


@pytest.fixture(scope="module")
def scored(
    config: ScoreConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ScoreReport]:
    out = tmp_path_factory.mktemp("runs") / "scores"
    return out, run_score(config, out, command="prunus score")


def test_the_numbers_are_those_of_collect_score_and_rank_layers(
    config: ScoreConfig, scored: tuple[Path, ScoreReport]
) -> None:
    content = scored[1].content
    data = load_data("digits", batch_size=64)
    model = build_model(
        "lenet5", num_classes=10, input_shape=(1, 28, 28), weights=Path(str(config.weights))
    ).eval()
    groups = find_groups(model, torch.zeros(1, 1, 28, 28), inputs=True)
    statistics = collect(model, data.calibration, groups, batches=4, blocks=8)
    expected = score(groups, statistics, "stacked", intervals=True)
    assert content["images"] == 256
    assert [group["name"] for group in content["groups"]] == [
        group.name for group in groups.values()
    ]
    for group in content["groups"]:
        one = expected[group["name"]]
        low, high = one.interval(0.95)
        assert group["order"] == one.order.tolist()
        for key, numbers in {
            "values": one.values,
            "costs": one.costs,
            "low": low,
            "high": high,
        }.items():
            assert group[key] == pytest.approx(numbers.tolist(), rel=1e-12)
    layers = rank_layers(groups, statistics)
    assert content["layers"] == [dataclasses.asdict(layer) for layer in layers]
    assert all(layer["low"] < layer["share"] < layer["high"] for layer in content["layers"])


def test_what_is_written_says_it_all_and_comes_out_the_same_again(
    config: ScoreConfig, scored: tuple[Path, ScoreReport]
) -> None:
    out, report = scored
    assert {path.name for path in out.iterdir()} == FILES
    text = (out / "scores.json").read_text()
    assert json.loads(text) == report.content
    assert report.content["version"] == 1
    run, taken, sealed = read_rows(out / "record.jsonl")[0]
    assert set(sealed["sha256"]) == {"config.yaml", "scores.json"}
    assert run["command"] == "prunus score"
    assert run["torch"] == torch.__version__
    assert run["device"].startswith("CPU")
    assert taken["images"] == 256
    assert (out / "scores.html").read_text() == report.to_html()
    run_score(config, out)  # earlier scores are replaced
    assert (out / "scores.json").read_text() == text


def test_the_report_prints_within_80_columns(scored: tuple[Path, ScoreReport]) -> None:
    lines = str(scored[1]).splitlines()
    assert lines[0] == "lenet5 on digits"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_criterion_scores_or_says_why(name: str, config: ScoreConfig) -> None:
    options: dict[str, Any] = {"criterion": name, "batches": 1, "inputs": False}
    if name == "granular":
        with pytest.raises(ConfigError, match="--set parents="):
            run_score(dataclasses.replace(config, **options))
        options["parents"] = ((0, 0, 0, 0, 0, 1, 1, 1, 1, 1),)
    content = run_score(dataclasses.replace(config, **options)).content
    assert content["criterion"] == name
    groups = [group["name"] for group in content["groups"]]
    skipped = [item["module"] for item in content["skipped"]]
    assert {*groups, *skipped} == {"conv1", "conv2", "fc1"}
    assert not skipped or name == "bn_scale"
    for group in content["groups"]:
        unknown = [low is None for low in group["low"]]
        assert all(unknown) if name in ("taylor", "deep_lda") else not any(unknown)
    json.dumps(content, allow_nan=False)


def test_kernels_have_a_ranking_too(config: ScoreConfig) -> None:
    changes: dict[str, Any] = {"sampling": "dual", "criterion": "di", "batches": 2, "blocks": 2}
    content = run_score(dataclasses.replace(config, **changes)).content
    assert content["sampling"] == "dual"
    assert len(content["layers"]) == 4


def test_random_weights_are_refused_before_the_data_are_read() -> None:
    with pytest.raises(ConfigError, match="lenet5 has no trained weights"):
        run_score(ScoreConfig(model="lenet5", data="nowhere"))
    with pytest.raises(ConfigError, match="timm:resnet18 has no trained weights"):
        run_score(ScoreConfig(model="timm:resnet18", data="nowhere"))
    with pytest.raises(ConfigError, match="which has its own"):
        run_score(ScoreConfig(model="lenet5", data="digits", weights="w.pt", run="runs/a"))


NETWORK = """
import torch
from torch import nn
def net(num_classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 8),
        nn.ReLU(), nn.Linear(8, num_classes))
"""


def test_a_file_may_bring_its_own_weights(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORK)
    config = ScoreConfig(model=f"{tmp_path / 'nets.py'}:net", data="digits", device="cpu")
    report = run_score(dataclasses.replace(config, ignored_layers=("1",)))
    assert [layer["module"] for layer in report.content["layers"]] == ["1", "3", "5"]
    names = [group["name"] for group in report.content["groups"]]
    assert "3" in names
    assert "1" not in names
    assert "1" in {item["module"] for item in report.content["unprunable"]}


def test_a_folder_with_something_else_is_left_alone(config: ScoreConfig, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    with pytest.raises(RunFolderError, match="contains no scores"):
        run_score(config, tmp_path)
    with pytest.raises(RunFolderError, match="is a file"):
        run_score(config, tmp_path / "cat.png")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
