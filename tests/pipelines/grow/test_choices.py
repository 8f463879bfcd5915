"""What greedy growing chooses and when it stops: Algorithm 3 on known accuracies."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import prunus
from prunus.core.record import read_rows
from prunus.models import build_model
from prunus.pipelines import GrowConfig, run_grow
from prunus.pipelines.grow import best_step, why_stop
from prunus.pipelines.grow.candidate import Bench, Candidate
from tests.pipelines.growing import NET, UNTRAINED, config

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
            lambda bench, model, trained: {
                name: oracle(name, model.stage_sizes) for name in ("accuracy", "information")
            },
        )
        return tried

    return use


def by_sizes(table: dict[tuple[int, ...], float]) -> Oracle:
    return lambda name, sizes: table[sizes] if name == "accuracy" else 0.5


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
    assert stop["reason"] == "no gain within patience=2 steps"
    assert (grown["step"], grown["model"]) == (1, f"{NET}@1,2")
    assert prunus.load(tmp_path / "run/grown", trust=True).stage_sizes == (1, 2)
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
        ([0.5, 0.6, 0.6, 0.6], {}, "no gain within patience=2 steps"),
        ([0.5, 0.6, 0.6], {}, None),
        ([0.5, 0.6, 0.6], {"patience": 1}, "no gain within patience=1 steps"),
        ([0.5, 0.6, 0.5, 0.7, 0.6], {}, None),
        # Two steps of half the least gain are one gain.
        ([0.5, 0.506, 0.512], {"min_gain": 0.01}, None),
        ([0.5, 0.506, 0.509], {"min_gain": 0.01}, "no gain within patience=2 steps"),
        ([0.5, 0.4], {"steps": 1}, "steps=1 reached"),
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
    assert why_stop(rows[:2], GrowConfig(), enough=0.9) == "validation accuracy 90.00% reached"
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
