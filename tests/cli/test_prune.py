"""The command line as a person uses it, in this process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import prunus
from prunus.cli import main
from prunus.core.record import Row, read_rows
from prunus.criteria import CRITERIA
from prunus.data import load_data
from prunus.evaluation import count_params
from prunus.models import build_model
from prunus.plan import ALLOCATIONS, Plan
from prunus.surgery import COMPENSATIONS
from tests.browser import Page

QUICK = [
    *("--epochs", "3", "--iterations", "2", "--finetune-epochs", "1", "--final-epochs", "2"),
    *("--device", "cpu"),
]
#: Without a second export, that of the dense network, to time it in ONNX Runtime.
UNTIMED = [*QUICK, "--set", "prune.runtimes=[]"]


def prunus_(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["prunus", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the main job, small."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as monkeypatch:
        code = prunus_(
            *("prune", "--model", "lenet5", "--data", "digits", "--budget", "params=10%"),
            *("--out", str(out), *QUICK),
            monkeypatch=monkeypatch,
        )
    assert code == 0
    return out


def test_the_run_folder_holds_what_the_design_says(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == {
        *("config.yaml", "record.jsonl", "plan.json", "model.safetensors"),
        *("model.onnx", "report.html", "dense.safetensors", "plans.json"),
    }


def test_the_budget_is_met_and_reported(run: Path) -> None:
    rows = read_rows(run / "record.jsonl")[0]
    result = next(row for row in rows if row["event"] == "result")
    assert result["dense"]["params"] == 431_080
    assert 0.08 * 431_080 < result["pruned"]["params"] <= 43_108
    assert result["pruned"]["macs"] < result["dense"]["macs"]
    assert result["pruned"]["bytes"] < 0.15 * result["dense"]["bytes"]
    assert result["pruned"]["test_accuracy"] > 0.8
    timings = {row["runtime"]: row for row in rows if row["event"] == "timing"}
    assert set(timings) == {"eager", "onnxruntime"}
    for timing in timings.values():
        assert set(timing["batches"]) == {"1", "64"}
        for found in timing["batches"].values():
            for estimate in (found["dense"], found["pruned"], found["speedup"]):
                assert 0 < estimate["low"] <= estimate["median"] <= estimate["high"]
    export = next(row for row in rows if row["event"] == "export")
    assert export["largest_difference"] < 1e-4
    cuts = [row for row in rows if row["event"] == "prune"]
    assert [row["iteration"] for row in cuts] == [1, 2]
    assert cuts[1]["params"] <= 43_108 < cuts[0]["params"]


def test_load_gives_the_network_back(run: Path) -> None:
    model = prunus.load(run)
    rows = read_rows(run / "record.jsonl")[0]
    result = next(row for row in rows if row["event"] == "result")
    assert count_params(model) == result["pruned"]["params"]
    assert not model.training
    from prunus.evaluation import accuracy

    test = load_data("digits", seed=0).test
    assert accuracy(model, test) == result["pruned"]["test_accuracy"]


def test_the_config_repeats_the_run_to_the_byte(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    code = prunus_(
        *("prune", "--config", str(run / "config.yaml"), "--out", str(out)),
        monkeypatch=monkeypatch,
    )
    assert code == 0
    for name in ("plan.json", "model.safetensors", "config.yaml"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_trained_weights_are_pruned_without_training_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = prunus_(
        *("prune", "--model", "lenet5", "--data", "digits", "--budget", "macs=50%"),
        *("--weights", str(run / "dense.safetensors"), "--out", str(tmp_path / "run"), *UNTIMED),
        *("--set", "prune.criterion=di", "--set", "prune.finetune.lr=1e-3"),
        monkeypatch=monkeypatch,
    )
    printed = capsys.readouterr().out.replace("\u00a0", " ")
    assert code == 0
    assert "training the dense network" not in printed
    assert "Test accuracy" in printed
    assert "431 080" in printed
    assert "ONNX Runtime differs from PyTorch by at most" in printed
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["prune"]["criterion"] == "di"
    assert config["prune"]["finetune"]["lr"] == 1e-3
    assert config["weights"] == str(run / "dense.safetensors")


def test_a_floor_stops_the_loop_and_keeps_the_last_network_above_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    code = prunus_(
        *("prune", "--model", "lenet5", "--data", "digits", "--budget", "params=0.2%"),
        *("--weights", str(run / "dense.safetensors"), "--out", str(out)),
        *("--iterations", "4", "--finetune-epochs", "1", "--final-epochs", "1"),
        *("--min-accuracy", "0.93", "--device", "cpu", "--set", "prune.runtimes=[]"),
        monkeypatch=monkeypatch,
    )
    assert code == 0
    rows = read_rows(out / "record.jsonl")[0]
    stop = next(row for row in rows if row["event"] == "stop")
    assert "below the floor of 93.00%" in stop["reason"]
    reached = {r["iteration"]: r for r in rows if r["event"] == "iteration"}
    last = max(reached)
    assert reached[last]["validation_accuracy"] < 0.93 <= reached[last - 1]["validation_accuracy"]
    assert count_params(prunus.load(out)) == reached[last - 1]["params"]


@pytest.fixture(scope="module")
def lenet300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of trained weights."""
    data = load_data("digits", seed=0)
    torch.manual_seed(0)
    model = build_model("lenet300", num_classes=10, input_shape=(1, 28, 28))
    prunus.fit_(model, data.train, prunus.TrainConfig(epochs=8))
    path = tmp_path_factory.mktemp("weights") / "lenet300.safetensors"
    save_file(model.state_dict(), path)
    return path


def pruned(weights: Path, out: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Prune lenet300 by the command line; return the journal."""
    code = prunus_(
        *("prune", "--model", "lenet300", "--data", "digits", "--weights", str(weights)),
        *("--out", str(out), *UNTIMED, "--set", "prune.inputs=false", *more),
        monkeypatch=monkeypatch,
    )
    assert code == 0
    return read_rows(out / "record.jsonl")[0]


def test_the_smallest_network_that_keeps_an_accuracy(
    lenet300: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    flags = ("--budget", "accuracy>=93%", "--set", "prune.step=0.3")
    rows = pruned(lenet300, out, *flags, monkeypatch=monkeypatch)
    result = next(row for row in rows if row["event"] == "result")
    assert result["pruned"]["validation_accuracy"] >= 0.93
    assert result["pruned"]["macs"] < 0.5 * result["dense"]["macs"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "below the floor: one step back" in printed
    assert "predicted loss" in printed
    assert "the smallest network found with 93.00% or more on validation is kept" in printed


def test_a_budget_in_milliseconds(
    lenet300: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    flags = ("--budget", "ms=90%, bytes=60%", "--set", "prune.latency_batch=32")
    rows = pruned(lenet300, out, *flags, monkeypatch=monkeypatch)
    result = next(row for row in rows if row["event"] == "result")
    sides = result["dense"], result["pruned"]
    assert sides[1]["predicted_ms"] <= 0.9 * sides[0]["predicted_ms"]
    assert sides[1]["bytes"] <= 0.61 * sides[0]["bytes"]
    assert (out / "latency.json").exists()
    assert "by the latency table at batch 32: dense" in capsys.readouterr().out


def test_kept_classes_rounding_and_repair_by_flags(
    lenet300: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    flags = [
        *("--budget", "macs=40%", "--keep-class", "3", "--keep-class", "7", "--round-to", "8"),
        *("--compensate", "bias", "--allocation", "dp", "--criterion", "fdr"),
    ]
    rows = pruned(lenet300, out, *flags, monkeypatch=monkeypatch)
    protected = next(row for row in rows if row["event"] == "protected")
    assert protected["classes"] == [3, 7]
    plan = Plan.from_json((out / "plan.json").read_text())
    for name, units in protected["groups"].items():
        assert not set(units) & set(plan.groups[name].removed)
        assert len(plan.groups[name].kept()) % 8 == 0
    config = yaml.safe_load((out / "config.yaml").read_text())["prune"]
    assert config["keep_class"] == [3, 7]
    assert (config["compensate"], config["allocation"]) == ("bias", "dp")


def test_the_report_of_a_real_run_draws_in_a_browser(run: Path, browser: Page) -> None:
    browser.open(run / "report.html")
    said = dict(browser.run("({...document.documentElement.dataset})"))
    plots = browser.run("document.querySelectorAll('.plot').length")
    assert (said["errors"], int(said["drawn"])) == ("0", plots)
    assert plots >= 8  # accuracy twice, layers, four score panels, training
    assert browser.complaints() == []
    text = browser.run("document.body.innerText").replace("\u00a0", " ")
    rows = read_rows(run / "record.jsonl")[0]
    result = next(row for row in rows if row["event"] == "result")
    assert f"{result['pruned']['params']:,}".replace(",", " ") in text
    assert f"{100 * result['pruned']['test_accuracy']:.2f} %" in text
    assert "prunus prune --model lenet5 --data digits" in text


def test_a_report_is_written_anew(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert prunus_("report", str(run), monkeypatch=monkeypatch) == 0
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").read_text() == before


def test_a_network_of_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes, input_shape):\n"
        "    c, h, w = input_shape\n"
        "    return nn.Sequential(nn.Conv2d(c, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(16, num_classes))\n"
    )
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    code = prunus_(
        *("prune", "--model", "mine.py:tiny", "--data", "digits", "--budget", "macs=60%"),
        *("--out", str(out), *UNTIMED),
        monkeypatch=monkeypatch,
    )
    assert code == 0
    monkeypatch.chdir("/")
    assert prunus.load(out, trust=True)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_help_and_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert prunus_("prune", "--help", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "--budget" in printed
    for name in (*CRITERIA, *ALLOCATIONS, *COMPENSATIONS):
        assert name in printed
    assert prunus_("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("prunus 0.")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from prunus.cli import app; app(['--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
