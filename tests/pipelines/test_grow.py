"""Greedy growing: Algorithm 3 on known accuracies, real runs, kills, and worker processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
from prunus.pipelines import GrowConfig, GrowRunConfig, RunConfig, Watch, run_grow
from prunus.pipelines.grow import best_step, why_stop
from prunus.pipelines.grow.candidate import Bench, Candidate, latent_information, weights_of
from prunus.pipelines.grow.workers import Crew
from prunus.training import TrainConfig

FILE = Path(__file__).parent / "growing_net.py"
NET = f"{FILE}:Net"
BRIEF = TrainConfig(epochs=1, lr=1e-2)


def config(model: str = NET, **grow: Any) -> GrowRunConfig:
    settings = {"base": BRIEF, "candidate": BRIEF, "threads": 1, "images": 500, **grow}
    return GrowRunConfig(
        model=model,
        data="digits",
        input_shape=(1, 8, 8),
        device="cpu",
        grow=GrowConfig(**settings),
    )


Oracle = Callable[[str, tuple[int, ...]], float]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Oracle], list[Candidate]]:
    """Replace training and measuring by known numbers; return what was tried."""

    def use(oracle: Oracle) -> list[Candidate]:
        tried: list[Candidate] = []

        def try_(bench: Bench, candidate: Candidate) -> dict[str, Any]:
            tried.append(candidate)
            model = bench.build(candidate.sizes)
            folder = bench.out / "steps" / candidate.key
            folder.mkdir(parents=True)
            prunus.export.save_weights(model, folder / "model.safetensors")
            names = ("accuracy", "information", "trained_information")
            if not candidate.trained:
                names = ("information",)
            return {
                **{"step": candidate.step, "stage": candidate.stage, "sizes": candidate.sizes},
                **{"model": f"{NET}@{','.join(map(str, candidate.sizes))}", "seconds": 0.0},
                **{"params": 1, "macs": 1, "bytes": 1, "accuracy": None},
                "trained_information": None,
                **{name: oracle(name, candidate.sizes) for name in names},
            }

        monkeypatch.setattr(Bench, "try_", try_)
        monkeypatch.setattr(
            Bench,
            "measured",
            lambda bench, model: {
                name: oracle(name, model.stage_sizes) for name in ("accuracy", "information")
            },
        )
        return tried

    return use


def by_sizes(table: dict[tuple[int, ...], float]) -> Oracle:
    return lambda name, sizes: table[sizes] if name == "accuracy" else 0.5


UNTRAINED: dict[str, Any] = {"base": TrainConfig(epochs=0)}


def path(out: Path) -> list[tuple[int, ...]]:
    steps = [row for row in read_rows(out / "record.jsonl")[0] if row["event"] == "step"]
    assert [row["step"] for row in steps] == list(range(len(steps)))
    return [tuple(row["sizes"]) for row in steps]


def test_algorithm_3_on_known_accuracies(
    known: Callable[[Oracle], list[Candidate]], tmp_path: Path
) -> None:
    table = {(1, 1): 0.5, (2, 1): 0.6, (1, 2): 0.7, (2, 2): 0.69, (1, 3): 0.65}
    table |= {(3, 2): 0.68, (2, 3): 0.70}
    tried = known(by_sizes(table))
    journal = run_grow(config(**UNTRAINED), tmp_path / "run", workers=1)
    assert path(tmp_path / "run") == [(1, 1), (1, 2), (2, 2), (2, 3)]
    assert [candidate.sizes for candidate in tried] == [
        *((2, 1), (1, 2)),
        *((2, 2), (1, 3)),
        *((3, 2), (2, 3)),
    ]
    assert [candidate.parent for candidate in tried[2:]] == 2 * [(1, 2)] + 2 * [(2, 2)]
    stop, grown = journal.record.find("stop"), journal.record.find("grown")
    assert stop is not None
    assert grown is not None
    assert stop["reason"] == "no step gained anything within patience=2"
    assert (grown["step"], grown["model"]) == (1, f"{NET}@1,2")
    assert prunus.load(tmp_path / "run/grown").stage_sizes == (1, 2)
    choices = [row["choices"] for row in journal.record.all("step")[1:]]
    # All equal in information: the first stage.
    assert [choice["accuracy"] for choice in choices] == [1, 0, 1]
    assert [choice["information"] for choice in choices] == [0, 0, 0]


def test_information_chooses_and_only_the_chosen_one_is_trained(
    known: Callable[[Oracle], list[Candidate]], tmp_path: Path
) -> None:
    informed = {(2, 1): 0.3, (1, 2): 0.2, (3, 1): 0.4, (2, 2): 0.45}
    after = {(1, 1): 0.1, (2, 1): 0.35, (2, 2): 0.6}

    def oracle(name: str, sizes: tuple[int, ...]) -> float:
        if name == "accuracy":
            return 0.9
        return after[sizes] if name == "trained_information" or sizes == (1, 1) else informed[sizes]

    tried = known(oracle)
    journal = run_grow(
        config(choose="information", steps=2, **UNTRAINED), tmp_path / "run", workers=1
    )
    assert path(tmp_path / "run") == [(1, 1), (2, 1), (2, 2)]
    assert [(c.sizes, c.trained) for c in tried] == [
        *(((2, 1), False), ((1, 2), False), ((2, 1), True)),
        *(((3, 1), False), ((2, 2), False), ((2, 2), True)),
    ]
    steps = journal.record.all("step")
    assert [row["information"] for row in steps] == [0.1, 0.35, 0.6]
    assert [row["choices"] for row in steps[1:]] == [{"information": 0}, {"information": 1}]
    assert journal.record.find("grown")["step"] == 2  # by information after training


@pytest.mark.parametrize(
    ("accuracies", "settings", "reason"),
    [
        ([0.5, 0.6, 0.6, 0.6], {}, "no step gained anything within patience=2"),
        ([0.5, 0.6, 0.6], {}, None),
        ([0.5, 0.6, 0.6], {"patience": 1}, "no step gained anything within patience=1"),
        ([0.5, 0.6, 0.5, 0.7, 0.6], {}, None),
        # Two steps of half the least gain are one gain.
        ([0.5, 0.506, 0.512], {"min_gain": 0.01}, None),
        ([0.5, 0.506, 0.509], {"min_gain": 0.01}, "no step gained anything within patience=2"),
        ([0.5, 0.4], {"steps": 1}, "steps=1 is reached"),
        ([0.5], {"steps": 1}, None),
    ],
)
def test_when_growing_stops(
    accuracies: Sequence[float], settings: dict[str, Any], reason: str | None
) -> None:
    rows = [{"accuracy": accuracy} for accuracy in accuracies]
    assert why_stop(rows, GrowConfig(**settings)) == reason


def test_an_accuracy_that_is_enough_ends_it_and_equals_go_to_the_smaller() -> None:
    rows = [{"accuracy": a, "step": i} for i, a in enumerate((0.5, 0.9, 0.9))]
    assert best_step(rows, "accuracy")["step"] == 1
    assert (
        why_stop(rows[:2], GrowConfig(), enough=0.9) == "a validation accuracy of 90.00% is reached"
    )
    assert why_stop(rows[:1], GrowConfig(), enough=0.9) is None


def test_no_candidate_above_the_bound_is_tried(
    known: Callable[[Oracle], list[Candidate]], tmp_path: Path
) -> None:
    """The first stage adds 9·4·4 + 8 weights, the second 9·6·6 + 12; the bound lets 300 in."""
    params = sum(
        p.numel() for p in build_model(NET, num_classes=10, input_shape=(1, 8, 8)).parameters()
    )
    tried = known(lambda name, sizes: sum(sizes) / 10)
    budget = f"params={params + 310}, macs=1G"
    journal = run_grow(config(budget=budget, **UNTRAINED), tmp_path / "run", workers=1)
    assert [candidate.sizes for candidate in tried] == [(2, 1), (3, 1)]
    stop = journal.record.find("stop")
    assert stop is not None
    assert stop["reason"] == f"no candidate fits into {budget}"


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
    assert prunus.load(grown / "grown").stage_sizes == tuple(best["sizes"])
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


@pytest.mark.parametrize("moment", ["step 1 tried", "step 1 keeps", "growing is over"])
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
    with pytest.raises(RunFolderError, match=r"already holds a run .*growing.*--resume"):
        run_grow(replace(config(steps=2), train=BRIEF), grown, workers=1)
    with pytest.raises(RunFolderError, match=r"holds a run with grow .*the same settings"):
        run_grow(replace(config(steps=3), train=BRIEF), grown, resume=True, workers=1)
    with pytest.raises(RunFolderError, match=r"holds a run of another kind"):
        run_grow(config(), grown / "grown", resume=True, workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"not empty and holds no run"):
        run_grow(config(), tmp_path, workers=1)


def test_a_candidate_has_its_parents_weights(grown: Path, tmp_path: Path) -> None:
    """Before training, all but the new module is what the step before left."""
    bench = Bench(config(), tmp_path)
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
    bench = Bench(config(images=300), tmp_path)
    model = prunus.load(grown / "grown")
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
    bench = Bench(config(images=5), tmp_path)
    dataset: Any = bench.data.calibration.dataset
    (x, y), *more = bench.images
    assert not more
    at = [round(i * (len(dataset) - 1) / 4) for i in range(5)]
    assert torch.equal(y, torch.stack([dataset[i][1] for i in at]))
    assert torch.equal(x, torch.stack([dataset[i][0] for i in at]))
    everything = Bench(config(images=10**6), tmp_path).images
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
        ({"budget": "params=10"}, r"has \d+ params before it grows.*allows 10"),
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
        with Crew(Bench(settings, tmp_path / name), workers=workers, threads=1) as crew:
            [row] = crew.try_all([first])
            row.pop("seconds")
            rows.append(row)
            if workers > 1:
                with pytest.raises(
                    PrunusError,
                    match=r"candidate .*Dying@1,2 of step 1 died \(exit code 3\): mend .*--resume",
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
    process = subprocess.Popen(
        [sys.executable, "-m", "prunus", "grow", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 300
    while not (out / "steps/002-0/steps/train.pt").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    [worker] = [
        child
        for child in children(process.pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while not gone(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [row["event"] for row in untimed(out)].count("step") == 2
    run_grow(settings, out, resume=True, workers=1)
    run_grow(settings, tmp_path / "undisturbed", workers=1)
    same_run(out, tmp_path / "undisturbed")
