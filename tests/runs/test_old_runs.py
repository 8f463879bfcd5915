"""A run folder that an earlier version wrote still loads, is intact, and can be worked with.

`tests/old_runs/0.1-lenet300` was written by `prunus prune --model lenet300 --data digits
--input-shape 1,8,8 --budget macs=40% --epochs 4 --iterations 2 --finetune-epochs 1 --final-epochs 1
--device cpu --keep-class 3` before rooms were laid out anew; its page and ONNX file are left out.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import prunus
from prunus.core import last, read_rows
from prunus.data import load_data
from prunus.evaluation import accuracy, count_params
from prunus.plan import Plan
from prunus.runs import Journal
from tests.cli.command import prunus_

OLD = Path(__file__).parents[1] / "old_runs" / "0.1-lenet300"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_its_networks_are_what_its_record_says(run: Path) -> None:
    rows, _ = read_rows(run / "record.jsonl")
    result = last(rows, "result")
    assert result is not None
    data = load_data("digits", seed=0, input_shape=(1, 8, 8))
    for side, network in (
        ("dense", prunus.load(run, dense=True)),
        ("pruned", prunus.load(run)),
    ):
        assert count_params(network) == result[side]["params"]
        assert accuracy(network, data.validation) == result[side]["validation_accuracy"]
        assert accuracy(network, data.test) == result[side]["test_accuracy"]
    assert result["pruned"]["macs"] <= 0.4 * result["dense"]["macs"]


def test_its_plans_replay(run: Path) -> None:
    plans = Journal(run).plans()
    assert sorted(plans) == [1, 2]
    assert plans[2] == Plan.from_json((run / "plan.json").read_text())


def test_the_commands_take_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prunus_("load", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "intact"
    assert prunus_("report", run) == 0
    assert "lenet300" in (run / "report.html").read_text()
    assert prunus_("diff", run, OLD, "--json") == 0
    assert prunus_("export", run, "--format", "onnx", "--out", tmp_path / "exported") == 0
    assert prunus_("score", run, "--out", tmp_path / "scores", "--device", "cpu") == 0
    assert (tmp_path / "scores" / "scores.json").exists()


def test_resuming_it_finds_nothing_left_to_do(run: Path) -> None:
    """Its config is read, every step is found in its journal, and its weights stay."""
    before = {name: (run / name).read_bytes() for name in ("plan.json", "model.safetensors")}
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        config.replace("data_root: data", f"data_root: {Path('data').absolute()}")
    )
    threads = torch.get_num_threads()
    assert prunus_("prune", "--out", run, "--resume") == 0
    torch.set_num_threads(threads)
    assert {name: (run / name).read_bytes() for name in before} == before
