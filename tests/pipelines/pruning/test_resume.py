"""A run killed with `kill -9` at any moment ends with the bytes of an undisturbed one."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from prunus.core.record import read_rows
from prunus.data import load_data
from prunus.models import build_model, load_weights_
from prunus.pipelines import Journal, Loaders, PruneConfig, Session, Watch, ps_iteration
from prunus.plan import Budget
from prunus.training import TrainConfig
from tests import warm
from tests.warm import Command

SETTINGS = [
    *("--model", "lenet5", "--data", "digits", "--budget", "params=20%", "--device", "cpu"),
    *("--epochs", "4", "--iterations", "2", "--finetune-epochs", "3", "--final-epochs", "3"),
    *("--batch-size", "32", "--augment"),
    *("--set", "prune.runtimes=[]"),  # without an export of the dense network, to time it
    *("--set", "prune.blocks=2"),  # intervals, from the fewest blocks
]


SEARCH = [
    *("--model", "lenet300", "--data", "digits", "--device", "cpu", "--epochs", "4"),
    *(
        "--budget",
        "ms=90%, params=5%, accuracy>=80%",
        "--finetune-epochs",
        "2",
        "--final-epochs",
        "2",
    ),
    *("--set", "prune.inputs=false", "--set", "prune.step=0.5"),
    *("--set", "prune.latency_batch=32", "--set", "prune.runtimes=[]"),
]


def start(out: Path, *more: str, settings: list[str] = SETTINGS, fresh: bool = False) -> Command:
    return warm.start("-m", "prunus", "prune", *settings, "--out", str(out), *more, fresh=fresh)


def finish(command: Command) -> None:
    assert command.wait() == 0, command.errors


def kill_when(command: Command, out: Path, reached: Callable[[Path], bool]) -> None:
    deadline = time.monotonic() + 300
    while not reached(out):
        assert command.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(command.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL


def has_row(out: Path, event: str, iteration: int) -> bool:
    path = out / "record.jsonl"
    rows = read_rows(path)[0] if path.exists() else []
    return any(r["event"] == event and r.get("iteration") == iteration for r in rows)


#: The second is tried on processes that start cold, as a person's do.
MOMENTS = {
    "while the dense network trains": lambda out: (out / "steps/dense.pt").exists(),
    "in the P-phase after the first cut": lambda out: (out / "steps/001.pt").exists(),
    "after the last cut": lambda out: has_row(out, "prune", 2),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(out))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_resumes_to_the_same_bytes(
    moment: str, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fresh = moment == "in the P-phase after the first cut"
    kill_when(start(out, fresh=fresh), out, MOMENTS[moment])
    assert not (out / "model.safetensors").exists()
    finish(start(out, "--resume", fresh=fresh))
    for name in ("plan.json", "model.safetensors", "dense.safetensors"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    events = [row["event"] for row in read_rows(out / "record.jsonl")[0]]
    assert events == [row["event"] for row in read_rows(undisturbed / "record.jsonl")[0]]
    assert not (out / "steps").exists()
    assert not list(out.glob(".*"))  # no scratch file survives the kill


@pytest.mark.slow
def test_a_killed_search_resumes_with_the_same_latency_table(tmp_path: Path) -> None:
    """Another run would time another table, so the undisturbed one takes over the first's."""
    out, other = tmp_path / "run", tmp_path / "undisturbed"
    command = start(out, settings=SEARCH)
    kill_when(command, out, lambda out: (out / "steps/002.pt").exists())
    shutil.copytree(out, other)
    shutil.rmtree(other / "steps")
    rows = (other / "record.jsonl").read_text().splitlines(keepends=True)
    first = next(at for at, row in enumerate(rows) if '"graph"' in row)
    (other / "record.jsonl").write_text("".join(rows[:first]))  # dense and timed, nothing cut
    finish(start(other, "--resume", settings=SEARCH))
    finish(start(out, "--resume", settings=SEARCH))
    for name in ("plan.json", "model.safetensors", "latency.json", "dense.safetensors"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    records = [read_rows(folder / "record.jsonl")[0] for folder in (out, other)]
    assert [row["event"] for row in records[0]] == [row["event"] for row in records[1]]
    assert sum(row["event"] == "iteration" for row in records[0]) > 2
    assert sum(row["event"] == "latency" for row in records[0]) == 1


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(undisturbed: Path) -> None:
    before = {p.name: p.read_bytes() for p in undisturbed.iterdir() if p.name != "report.html"}
    finish(start(undisturbed, "--resume"))
    after = {p.name: p.read_bytes() for p in undisturbed.iterdir() if p.name != "report.html"}
    assert before == after


def test_a_stop_at_the_floor_is_taken_up_with_the_network_above_it(
    undisturbed: Path, tmp_path: Path
) -> None:
    """A journal that ends after the stop goes on from the last network that held the floor."""
    data = load_data("digits", batch_size=64)
    dense = build_model("lenet5", num_classes=10, input_shape=(1, 28, 28))
    load_weights_(dense, undisturbed / "dense.safetensors")
    config = PruneConfig(
        iterations=3,
        min_accuracy=0.9,
        finetune=TrainConfig(epochs=1),
        final=TrainConfig(epochs=1),
    )

    def run() -> tuple[torch.nn.Module, Journal]:
        session = Session(
            loaders=Loaders(
                train=data.train, calibration=data.calibration, validation=data.validation
            ),
            fabric=Fabric(accelerator="cpu", devices=1),
            seed=0,
            journal=Journal(tmp_path),
            watch=Watch(),
        )
        budget, example = Budget.parse("params=0.05%"), torch.zeros(1, 1, 28, 28)
        return ps_iteration(dense, budget, config, session, example=example)[0], session.journal

    model, journal = run()
    stop = journal.record.find("stop")
    assert stop is not None
    assert "below the floor" in stop["reason"]
    lines = (tmp_path / "record.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"stop"' in line)
    (tmp_path / "record.jsonl").write_text("".join(lines[: cut + 1]))
    (tmp_path / "steps/final.pt").unlink()
    again, _ = run()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name

    cut = next(i for i, line in enumerate(lines) if '"event": "prune"' in line)
    (tmp_path / "record.jsonl").write_text("".join(lines[:cut]))  # cut saved, row not written
    assert (tmp_path / "steps/001-cut.safetensors").exists()
    (tmp_path / "steps/final.pt").unlink()
    again, journal = run()
    assert journal.record.find("prune", iteration=1) is not None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
