"""Greedy growing: real runs, kills, and worker processes."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.core import read_yaml
from prunus.core.errors import (
    BudgetError,
    ConfigError,
    DataError,
    NonFiniteError,
    PrunusError,
    RunFolderError,
)
from prunus.core.record import read_rows
from prunus.models import build_model
from prunus.pipelines import GrowRunConfig, RunConfig, Watch, run_grow
from prunus.pipelines.grow.candidate import Bench, Candidate, latent_information, weights_of
from prunus.pipelines.grow.workers import Crew
from prunus.runs import open_job
from prunus.training import TrainConfig
from tests import warm
from tests.pipelines.growing import BRIEF, FILE, NET, UNTRAINED, config


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, nothing disturbed, in this process."""
    out = tmp_path_factory.mktemp("runs") / "grown"
    run_grow(replace(config(steps=2), train=BRIEF), out, workers=1, command="this test")
    return out


def test_a_run_leaves_a_family_of_networks_and_a_run_that_loads(grown: Path) -> None:
    rows = read_rows(grown / "record.jsonl")[0]
    candidates = [row for row in rows if row["event"] == "candidate"]
    steps = [row for row in rows if row["event"] == "step"]
    assert [(row["step"], row["stage"]) for row in candidates] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for row in candidates:
        assert 0 < row["information"] < 1
        assert 0 < row["trained_information"] < 1
        assert 0 < row["accuracy"] <= 1
        assert row["seconds"] > 0
    for row in steps:
        model = build_model(
            row["model"],
            num_classes=10,
            input_shape=(1, 8, 8),
            weights=grown / row["weights"],
        )
        assert sum(p.numel() for p in model.parameters()) == row["params"]
    for step in (1, 2):
        tried = [row for row in candidates if row["step"] == step]
        best = max(tried, key=lambda row: row["accuracy"])
        assert steps[step]["sizes"] == best["sizes"]
        assert steps[step]["information"] == best["trained_information"]
        assert steps[step]["choices"] == {
            name: max(tried, key=lambda row, name=name: row[name])["stage"]
            for name in ("accuracy", "information", "trained_information")
        }
    best = max(steps, key=lambda row: row["accuracy"])
    run = read_yaml(RunConfig, grown / "grown/config.yaml")
    assert run.model == best["model"]
    assert run.train == BRIEF
    trained = read_rows(grown / "grown/record.jsonl")[0]
    assert next(row for row in trained if row["event"] == "trained")["params"] == best["params"]
    assert prunus.load(grown / "grown", trust=True).stage_sizes == tuple(best["sizes"])
    assert not (grown / "steps").exists()
    assert read_yaml(GrowRunConfig, grown / "config.yaml").num_classes == 10


def untimed(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what differs each time."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in ("seconds", "started")}
        return [clean(each) for each in value] if isinstance(value, list) else value

    rows = read_rows(out / "record.jsonl")[0]
    return [clean(row) for row in rows if row["event"] != "run"]


def same_run(one: Path, other: Path) -> None:
    assert untimed(one) == untimed(other)
    files = sorted(file.relative_to(one) for file in one.rglob("*.safetensors"))
    assert len(files) == len(list((one / "models").iterdir())) + 1
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


class Stopping(Watch):
    """Stops the run when it tells a certain fact."""

    def __init__(self, text: str) -> None:
        self.text = text

    def say(self, text: str) -> None:
        if text.startswith(self.text):
            raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["step 1, candidate", "step 1, kept", "growing stopped"])
def test_a_stopped_run_repeats_nothing_and_ends_the_same(
    moment: str, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    settings = replace(config(steps=2), train=BRIEF)
    with pytest.raises(KeyboardInterrupt):
        run_grow(settings, out, workers=1, watch=Stopping(moment))
    done = [row for row in untimed(out) if row["event"] == "candidate"]
    tried: list[Candidate] = []
    try_ = Bench.try_

    def counted(bench: Bench, candidate: Candidate) -> dict[str, Any]:
        tried.append(candidate)
        return try_(bench, candidate)

    monkeypatch.setattr(Bench, "try_", counted)
    run_grow(settings, out, resume=True, workers=1)
    assert len(tried) == 4 - len(done)
    same_run(out, grown)


def test_resuming_a_finished_run_changes_nothing(grown: Path) -> None:
    before = {p: p.read_bytes() for p in sorted(grown.rglob("*")) if p.is_file()}
    run_grow(replace(config(steps=2), train=BRIEF), grown, resume=True, workers=1)
    after = {p: p.read_bytes() for p in sorted(grown.rglob("*")) if p.is_file()}
    assert before == after


def test_a_folder_of_another_run_is_left_alone(grown: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"already contains a run .*growing.*--resume"):
        run_grow(replace(config(steps=2), train=BRIEF), grown, workers=1)
    with pytest.raises(RunFolderError, match=r"contains a run with grow .*the same settings"):
        run_grow(replace(config(steps=3), train=BRIEF), grown, resume=True, workers=1)
    with pytest.raises(RunFolderError, match=r"contains a run of another kind"):
        run_grow(config(), grown / "grown", resume=True, workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"not empty and not a run folder"):
        run_grow(config(), tmp_path, workers=1)


def test_a_candidate_has_its_parents_weights(grown: Path, tmp_path: Path) -> None:
    """Before training, all but the new module is what the step before left."""
    bench = Bench(open_job(config(), "grow"), tmp_path)
    start = weights_of(tmp_path, 0)
    start.parent.mkdir()
    start.write_bytes((grown / "models/000.safetensors").read_bytes())
    candidate = Candidate(step=1, stage=0, parent=(1, 1), trained=False)
    row = bench.try_(candidate)
    assert row["accuracy"] is None
    assert bench.try_(candidate) == row  # from its folder
    parent = build_model(NET, num_classes=10, input_shape=(1, 8, 8), weights=start).state_dict()
    model = build_model(
        f"{NET}@2,1",
        num_classes=10,
        input_shape=(1, 8, 8),
        weights=tmp_path / "steps/001-0-untrained/model.safetensors",
    ).state_dict()
    assert set(model) - set(parent) == {key for key in model if key.startswith("stages.0.1.")}
    assert all(torch.equal(model[key], tensor) for key, tensor in parent.items())


def test_information_by_definition(grown: Path, tmp_path: Path) -> None:
    """tr([S + ρI]⁻¹ S_B)/(L − 1) of what the head reads, on standardised features."""
    bench = Bench(open_job(config(images=300), "grow"), tmp_path)
    model = prunus.load(grown / "grown", trust=True)
    features, labels = [], []
    model.fc.register_forward_pre_hook(lambda _, args: features.append(args[0].double()))
    with torch.no_grad():
        for x, y in bench.images:
            model(x)
            labels.append(y)
    X, y = torch.cat(features).T, torch.cat(labels)
    Y = torch.zeros(10, len(y), dtype=torch.float64)
    for label in range(10):
        Y[label, y == label] = int((y == label).sum()) ** -0.5
    X, Y = X - X.mean(1, keepdim=True), Y - Y.mean(1, keepdim=True)
    alive = X.std(1) > 1e-9
    X = X[alive] / X[alive].square().mean(1, keepdim=True).sqrt()
    S, D = X @ X.T, X @ Y.T
    rho = 1e-3 * X.shape[1]
    information = torch.linalg.solve(S + rho * torch.eye(len(S), dtype=S.dtype), D @ D.T).trace()
    expected = float(information / Y.square().sum())
    assert float(Y.square().sum()) == pytest.approx(9)
    assert bench.information(model) == pytest.approx(expected, rel=1e-5)


def test_calibration_images_are_spread_over_the_split(tmp_path: Path) -> None:
    bench = Bench(open_job(config(images=5), "grow"), tmp_path)
    dataset: Any = bench.data.calibration.dataset
    (x, y), *more = bench.images
    assert not more
    at = [round(i * (len(dataset) - 1) / 4) for i in range(5)]
    assert torch.equal(y, torch.stack([dataset[i][1] for i in at]))
    assert torch.equal(x, torch.stack([dataset[i][0] for i in at]))
    everything = Bench(open_job(config(images=10**6), "grow"), tmp_path).images
    assert sum(len(y) for _, y in everything) == len(dataset)


def test_information_needs_one_head(tmp_path: Path) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x.flatten(1)) + self.two(x.flatten(1))

    with pytest.raises(ConfigError, match=r"made by one, two"):
        latent_information(TwoHeads(), [], torch.zeros(1, 1, 2, 2), 1e-3)


def test_a_candidate_that_diverges_is_named(tmp_path: Path) -> None:
    wild = TrainConfig(epochs=1, optimizer="sgd", lr=1e30, clip=0)
    with pytest.raises(NonFiniteError, match=r"candidate .*Net@2,1 of step 1: the loss became"):
        run_grow(config(candidate=wild, **UNTRAINED), tmp_path / "run", workers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lenet300"}, r"LeNet300 declares no stages"),
        ({"model": "inception_v1_small", "preserve": True}, r"cannot start as the identity"),
        ({"preserve": True, "choose": "information"}, r"choose by accuracy, or grow without"),
        ({"budget": "params=50%"}, r"cannot bound a growing network: give params, macs or bytes"),
        ({"budget": "ms=3"}, r"cannot bound a growing network"),
        ({"budget": "params=10"}, r"has \d+ params before growing.*allows 10"),
        ({"budget": "many"}, r"cannot be read"),
    ],
)
def test_what_cannot_go_well_is_refused_before_any_training(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, BudgetError), match=message):
        run_grow(config(**changes), tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers is 0, expected at least 1"):
        run_grow(config(), tmp_path / "run", workers=0)
    pairs = replace(config("dxnet444"), data=f"denoise:25:{tmp_path}", input_shape=None)
    with pytest.raises((ConfigError, DataError)):
        run_grow(pairs, tmp_path / "run", workers=1)


@pytest.mark.slow
def test_a_worker_process_gives_the_same_network_and_a_dead_one_is_named(
    grown: Path, tmp_path: Path
) -> None:
    for name in ("here", "there"):
        weights = weights_of(tmp_path / name, 0)
        weights.parent.mkdir(parents=True)
        weights.write_bytes((grown / "models/000.safetensors").read_bytes())
    settings = config(f"{FILE}:Dying")
    first, second = (Candidate(step=1, stage=stage, parent=(1, 1)) for stage in (0, 1))
    rows = []
    for name, workers in (("here", 1), ("there", 2)):
        with Crew(
            Bench(open_job(settings, "grow"), tmp_path / name), workers=workers, threads=1
        ) as crew:
            [row] = crew.try_all([first])
            row.pop("seconds")
            rows.append(row)
            if workers > 1:
                with pytest.raises(
                    PrunusError,
                    match=r"candidate .*Dying@1,2 of step 1 died \(exit code 3\): fix .*--resume",
                ):
                    list(crew.try_all([second]))
    assert rows[0] == rows[1]
    files = [tmp_path / name / "steps/001-0/model.safetensors" for name in ("here", "there")]
    assert files[0].read_bytes() == files[1].read_bytes()


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()]


def gone(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads processes from /proc")
def test_a_killed_run_leaves_no_process_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Killed while a worker process trains; resumed here, without one."""
    long = TrainConfig(epochs=8, lr=1e-2)
    settings = replace(
        config(f"{FILE}:OneStage", steps=2, candidate=long, patience=9), batch_size=64
    )
    out = tmp_path / "run"
    flags = [
        *("--model", f"{FILE}:OneStage", "--data", "digits", "--input-shape", "1,8,8"),
        *("--device", "cpu", "--steps", "2", "--patience", "9", "--base-epochs", "1"),
        *("--candidate-epochs", "8", "--workers", "2", "--batch-size", "64"),
        *("--set", "grow.threads=1", "--set", "grow.images=500", "--set", "grow.base.lr=0.01"),
        *("--set", "grow.candidate.lr=0.01", "--out", str(out)),
    ]
    process = warm.start("-m", "prunus", "grow", *flags)
    deadline = time.monotonic() + 300
    while not (out / "steps/002-0/steps/train.pt").exists():
        assert process.poll() is None, process.errors
        assert time.monotonic() < deadline
        time.sleep(0.005)
    [worker] = [
        child
        for child in children(process.pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    while not gone(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [row["event"] for row in untimed(out)].count("step") == 2
    run_grow(settings, out, resume=True, workers=1)
    run_grow(settings, tmp_path / "undisturbed", workers=1)
    same_run(out, tmp_path / "undisturbed")
