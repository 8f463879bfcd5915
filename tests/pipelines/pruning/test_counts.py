"""How often a run does what is expensive: trace, try a cut, check a budget, measure accuracy."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunus.batches import parse
from prunus.core import of_event, read_rows
from prunus.evaluation import accuracy
from prunus.graph import find_groups
from prunus.pipelines import PruneConfig, RunConfig, run_prune
from prunus.plan import check_reachable
from prunus.surgery import unsound_groups
from prunus.training import TrainConfig
from tests.journal import check_rows

ITERATIONS = 3
EPOCHS = {"dense": 2, "iteration": 1, "final": 1}


def replace_everywhere(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], other: Callable[..., Any]
) -> None:
    """Put `other` wherever a module of Prunus knows `function` by name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "prunus":
            for key, value in list(vars(module).items()):
                if value is function:
                    monkeypatch.setattr(module, key, other)


def counted(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], counts: Counter[str]
) -> None:
    def counting(*arguments: Any, **options: Any) -> Any:
        counts[function.__name__] += 1
        return function(*arguments, **options)

    replace_everywhere(monkeypatch, function, counting)


def test_lenet5_in_three_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    for function in (find_groups, unsound_groups, check_reachable):
        counted(monkeypatch, function, counts)
    measured: Counter[tuple[bytes, bytes]] = Counter()

    def measuring(model: torch.nn.Module, loader: Any, progress: Any = None) -> float:
        batches = list(loader)
        weights = torch.cat([p.detach().cpu().flatten() for p in model.parameters()])
        labels = torch.cat([parse(batch).labels for batch in batches])
        measured[labels.numpy().tobytes(), weights.numpy().tobytes()] += 1
        return accuracy(model, batches, progress)

    replace_everywhere(monkeypatch, accuracy, measuring)
    config = RunConfig(
        model="lenet5",
        data="digits",
        budget="params=20%",
        device="cpu",
        export=(),
        train=TrainConfig(epochs=EPOCHS["dense"]),
        prune=PruneConfig(
            iterations=ITERATIONS,
            runtimes=(),
            finetune=TrainConfig(epochs=EPOCHS["iteration"]),
            final=TrainConfig(epochs=EPOCHS["final"]),
        ),
    )
    run_prune(config, tmp_path / "run")

    assert counts["find_groups"] <= 6  # the dense network, each cut, and both in the table
    assert counts["unsound_groups"] == 1
    assert counts["check_reachable"] == 1
    assert set(measured.values()) == {1}  # no network twice on the same images
    passes = sorted(Counter(labels for labels, _ in measured).values())
    networks = EPOCHS["dense"] + ITERATIONS * (1 + EPOCHS["iteration"]) + EPOCHS["final"]
    assert passes == [1, 1, 1, 2, networks]  # a trial of each split; the test split, validation
    rows, _ = read_rows(tmp_path / "run" / "record.jsonl")
    assert len(of_event(rows, "prune")) == ITERATIONS
    check_rows(rows)
