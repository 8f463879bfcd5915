"""`run_search`: grow, push, prune and rivals on real digits, killed and resumed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prunus
from prunus.core import read_yaml
from prunus.core.errors import ConfigError, RunFolderError
from prunus.core.record import read_rows
from prunus.evaluation import accuracy, count_macs, count_params
from prunus.pipelines import (
    GrowConfig,
    RunConfig,
    SearchConfig,
    SearchPruneConfig,
    Watch,
    run_search,
)
from prunus.pipelines.search.compare import compare, curve_of, lead
from prunus.runs.environment import open_data
from prunus.training import PushConfig, TrainConfig
from tests.journal import check_rows

FILE = Path(__file__).parents[1] / "growing_net.py"
NET = f"{FILE}:Net"
BRIEF = TrainConfig(epochs=1, lr=1e-2)


def config(**changes: Any) -> SearchConfig:
    values: dict[str, Any] = {
        "model": NET,
        "data": "digits",
        "budget": "params=60%",
        "input_shape": (1, 8, 8),
        "device": "cpu",
        "export": (),
        "grow": GrowConfig(steps=1, base=BRIEF, candidate=BRIEF, threads=1, images=500),
        "train": BRIEF,
        "prune": SearchPruneConfig(iterations=2, runtimes=(), finetune=BRIEF, final=BRIEF),
        "rivals": ("deep_lda", "l1/global"),
        "scratch": "all",
        "fixed": ("lenet300",),
    }
    return SearchConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "search"
    run_search(config(), out, workers=1)
    return out


def rows_of(run: Path, event: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "record.jsonl")[0] if row["event"] == event]


def networks(run: Path) -> list[dict[str, Any]]:
    return [network for arm in rows_of(run, "arm") for network in arm["networks"]]


def test_every_journal_of_it_keeps_to_the_types_of_its_events(run: Path) -> None:
    seen: set[str] = set()
    for path in run.rglob("record.jsonl"):
        seen |= check_rows(read_rows(path)[0])
    assert seen >= {"start", "arm", "comparison", "step", "grown", "trained", "latent", "result"}


def test_every_arm_is_a_run_that_loads_as_its_row_says(run: Path) -> None:
    keys = [row["key"] for row in rows_of(run, "arm")]
    steps = rows_of(run, "start")[0]["steps"]
    grown = [f"grown {row['step']}" for row in steps]
    scratch = ["scratch 1", "scratch 2"]
    rivals = ["plain", "deep_lda", "l1/global"]
    on = ["finished 0", "finished 1"]
    assert keys == ["pushed", "derived", *on, *grown, *scratch, *rivals, "fixed lenet300"]
    finished = [row for row in networks(run) if row["test_accuracy"] is not None]
    assert len(finished) == len(keys)
    data = open_data(read_yaml(SearchConfig, run / "config.yaml"))
    assert rows_of(run, "start")[0]["validation_images"] == len(data.validation.dataset)
    for row in finished:
        model = prunus.load(run / row["folder"], trust=True)
        assert count_params(model) == row["params"]
        assert count_macs(model, torch.zeros(1, 1, 8, 8)) == row["macs"]
        assert accuracy(model, data.validation) == row["validation_accuracy"]


def test_the_derived_network_is_pushed_and_its_rivals_are_not(run: Path) -> None:
    pushed = {
        folder: read_yaml(RunConfig, run / folder / "config.yaml")
        for folder in (
            "pushed",
            "derived",
            "finished/000",
            "finished/001",
            "plain",
            "rivals/deep_lda",
            "scratch/002",
            "trained/000",
        )
    }
    for folder, settings in pushed.items():
        mine = folder.startswith(("pushed", "derived", "finished"))
        trains = (settings.train, settings.prune.finetune, settings.prune.final)
        told = trains[1:] if folder == "derived" else trains[:1] if mine else trains
        assert [train.push for train in told] == [PushConfig() if mine else None] * len(told)
    rival, derived = pushed["rivals/deep_lda"], pushed["derived"]
    assert dataclasses.replace(derived.prune.final, push=None) == rival.prune.final
    assert (rival.prune.criterion, rival.prune.allocation) == ("deep_lda", "threshold")
    other = read_yaml(RunConfig, run / "rivals/l1-global" / "config.yaml").prune
    assert (other.criterion, other.allocation) == ("l1", "global")


def test_all_have_seen_as_many_epochs(run: Path) -> None:
    steps = rows_of(run, "start")[0]["steps"]
    total = 1 + (len(steps) - 1) + 1 + 2 + 1  # base, candidates, push, iterations, final
    for row in networks(run):
        if row["name"].endswith("trained on"):
            assert row["epochs"] == total
        elif row["name"].startswith("iteration"):
            assert row["epochs"] == total - 1 - 2 + int(row["name"].split()[1])
        elif row["arm"] in ("plain", "derived") and row["name"] != "finished":
            assert row["epochs"] == total - 3
        else:
            assert row["epochs"] == total
    way = (("finished/000", total - 3), ("finished/001", total - 2))
    for folder, seen in (("fixed/lenet300", 0), ("scratch/001", 0), ("trained/000", 1), *way):
        assert read_yaml(RunConfig, run / folder / "config.yaml").train.epochs == total - seen


def test_structures_from_scratch_are_those_of_the_iterations(run: Path) -> None:
    derived = {row["name"]: row for row in networks(run) if row["arm"] == "derived"}
    for row in networks(run):
        if row["arm"] == "scratch":
            same = derived[row["name"].removeprefix("structure of ")]
            assert (row["params"], row["macs"]) == (same["params"], same["macs"])
            plans = json.loads((run / "derived" / "plans.json").read_text())
            plan = json.loads((run / row["folder"] / "plan.json").read_text())
            assert plan == plans[row["name"].split()[-1]]


def test_leads_are_those_of_the_definition(run: Path) -> None:
    found = {(row["arm"], row["currency"]): row for row in rows_of(run, "comparison")[0]["arms"]}
    whole = [row for row in networks(run) if row["test_accuracy"] is not None]
    on_curve = [row for row in whole if row["arm"] == "derived" and row["folder"] != "pushed"]
    derived = curve_of(on_curve, "params")
    assert len(derived) == 3
    assert [cost for cost, _ in derived] == sorted({cost for cost, _ in derived})
    scratch = [row for row in networks(run) if row["arm"] == "scratch"]
    same = [dict(derived)[row["params"]] - row["validation_accuracy"] for row in scratch]
    got = found["scratch", "params"]
    assert got["points"] == 2
    assert got["lead"] == pytest.approx(sum(same) / 2)
    assert (got["least"], got["most"]) == (pytest.approx(min(same)), pytest.approx(max(same)))
    fixed = found["fixed", "params"]
    assert (fixed["points"], fixed["left_out"], fixed["lead"]) == (0, 1, None)


def test_a_finished_search_is_not_done_again(run: Path) -> None:
    before = (run / "record.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="--resume"):
        run_search(config(), run)
    run_search(config(), run, resume=True, workers=1)
    assert (run / "record.jsonl").read_bytes() == before


class KilledError(Exception):
    pass


class KillsAt(Watch):
    """Stops the search when it tells what starts with a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def say(self, text: str) -> None:
        if text.startswith(self.text):
            raise KilledError


@pytest.mark.parametrize("at", ["iteration 2/2", "— finished 1 —", "— deep_lda —"])
def test_a_killed_search_goes_on_to_the_same_networks(run: Path, tmp_path: Path, at: str) -> None:
    out, fewer = (
        tmp_path / "killed",
        config(rivals=("deep_lda",), scratch="none", grown=False, fixed=()),
    )
    with pytest.raises(KilledError):
        run_search(fewer, out, watch=KillsAt(at), workers=1)
    assert "not finished" in (out / "report.html").read_text()
    run_search(fewer, out, resume=True, workers=1)
    keys = {"pushed", "derived", "finished 0", "finished 1", "plain", "deep_lda"}
    assert {row["key"] for row in rows_of(out, "arm")} == keys
    assert all(row in networks(run) for row in networks(out))
    for name in ("derived", "finished/001", "rivals/deep_lda"):
        name += "/model.safetensors"  # noqa: PLW2901
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_a_network_that_does_not_grow_and_a_rival_that_cannot_run(tmp_path: Path) -> None:
    lean = config(
        model="lenet300",  # without BatchNorm, which one rival scores by
        grow=None,
        repush=False,
        rivals=("bn_scale", "l1/threshold"),
        fixed=(),
        scratch="none",
        budget="params=90%",
        prune=SearchPruneConfig(
            criterion="l1", iterations=1, runtimes=(), finetune=BRIEF, final=BRIEF
        ),
    )
    out = tmp_path / "lean"
    run_search(lean, out, workers=1)
    assert [row["key"] for row in rows_of(out, "arm")] == [
        *("pushed", "derived", "finished 0", "plain", "l1/threshold")
    ]
    (failed,) = rows_of(out, "failed")
    assert failed["key"] == "bn_scale"
    assert failed["reason"] in (out / "report.html").read_text().replace("&#39;", "'")
    trains = read_yaml(RunConfig, out / "derived" / "config.yaml").prune
    assert (trains.finetune.push, trains.final.push) == (None, None)
    assert read_yaml(RunConfig, out / "pushed" / "config.yaml").train.push == PushConfig()
    assert rows_of(out, "start")[0]["steps"] == []
    assert not (out / "grow").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rivals": ("l3",)}, "'l3'"),
        ({"rivals": ("l1/best",)}, "'l1/best'"),
        ({"rivals": ("l1", "l1")}, "duplicate name"),
        ({"fixed": ("lenet3",)}, "lenet3"),
        ({"budget": "half"}, "half"),
        ({"train": TrainConfig(epochs=1, push=PushConfig())}, "train.push"),
        ({"data": "dncnn"}, "dncnn"),
        ({"prune": SearchPruneConfig(allocation="dp")}, "drop_branches"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(prunus.core.errors.PrunusError, match=words):
        run_search(config(**changes), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_lead_is_linear_in_the_logarithm_of_the_cost() -> None:
    curve = [(100.0, 0.90), (400.0, 0.98)]
    at = {"params": 200, "validation_accuracy": 0.93}
    assert lead(curve, at, "params") == pytest.approx(0.01)
    assert lead(curve, {**at, "params": 97}, "params") is None
    assert lead(curve, {**at, "params": 409}, "params") is None
    assert lead(curve, {**at, "params": 99}, "params") == pytest.approx(-0.03)  # pruned alike
    assert lead(curve, {**at, "params": 404}, "params") == pytest.approx(0.05)
    assert lead(curve, {**at, "params": 400}, "params") == pytest.approx(0.05)


def test_of_networks_of_one_cost_the_last_is_compared() -> None:
    row = {"arm": "derived", "name": "finished", "alone": False, "params": 10, "epochs": 9}
    rows = [{**row, "validation_accuracy": 0.5}, {**row, "validation_accuracy": 0.7}]
    assert curve_of(rows, "params") == [(10, 0.7)]
    rival = {**row, "arm": "l1"}
    both = [{**rival, "validation_accuracy": a} for a in (0.1, 0.6)]
    (found,) = compare([*rows, *both], "params")
    assert (found["points"], found["lead"]) == (1, pytest.approx(0.1))
    early = {**rival, "arm": "random", "epochs": 8, "validation_accuracy": 0.9}
    assert [found] == compare([*rows, *both, early], "params")


def test_other_settings_are_refused_on_resume(run: Path) -> None:
    with pytest.raises(RunFolderError, match="rivals"):
        run_search(config(rivals=()), run, resume=True)
    with pytest.raises((RunFolderError, ConfigError)):
        prunus.pipelines.run_train(
            RunConfig(model=NET, data="digits", input_shape=(1, 8, 8)), run, resume=True
        )
