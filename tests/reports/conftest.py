"""A journal as a run writes it, made up but consistent, and a browser to look at the page."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunus.plan import Plan

Row = dict[str, Any]
NETWORKS = {  # name: (units, consumer, kind, parameters a unit, MACs a unit)
    "conv1": (20, "conv2", "channels", 26, 14976),
    "conv2": (50, "fc1", "channels", 501, 32064),
    "fc1": (500, "fc2", "neurons", 811, 810),
}
CONFIG = {
    "version": 1,
    "model": "lenet5",
    "data": "digits",
    "budget": "params=10%",
    "criterion": "di",
    "iterations": 4,
    "seed": 0,
}


def make_journal(seed: int = 0, iterations: int = 4, groups: int = 0) -> list[Row]:
    """Return the rows of a finished run; `groups` > 0 replaces LeNet-5's by as many channels."""
    draw = random.Random(seed)
    units = (
        {f"layer{at // 6 + 1}.{at % 6}.conv1": (64, f"layer{at}") for at in range(groups)}
        if groups
        else {name: (value[0], value[1]) for name, value in NETWORKS.items()}
    )
    rows: list[Row] = [
        {
            "event": "run",
            "command": "prunus prune --model lenet5 --data digits --budget params=10% --out runs/a",
            "prunus": "0.1.0",
            "torch": "2.15.0",
            "python": "3.11.7",
            "device": "CPU: AMD EPYC, 2 threads",
            "seed": seed,
            "started": "2026-11-21T02:30:00Z",
        },
        {
            "event": "graph",
            "groups": [
                {"name": name, "kind": "channels", "units": count, "consumers": [consumer]}
                for name, (count, consumer) in units.items()
            ],
            "unprunable": [{"module": "fc2", "reason": "its outputs are the network's outputs"}],
        },
        _fit(draw, "dense", None, 8, (0.30, 0.9861)),
        {"event": "iteration", "iteration": 0, "params": 431080, "macs": 2293000}
        | {"bytes": 1724320, "validation_accuracy": 0.9861},
        _information(0, units),
    ]
    left = {name: count for name, (count, _) in units.items()}
    accuracy, params, macs = 0.9861, 431080, 2293000
    for at in range(1, iterations + 1):
        before = dict(left)
        left = {
            name: max(2, round(count * draw.uniform(0.5, 0.75))) for name, count in left.items()
        }
        done = at == iterations
        params = 42913 if done else round(params * 0.55)
        macs = 559268 if done else round(macs * 0.7)
        cut = accuracy - draw.uniform(0.01, 0.03) * at
        rows.append(
            {
                "event": "prune",
                "iteration": at,
                "target": f"params ≤ {10 if done else round(100 * 0.55**at)}%",
                "params": params,
                "macs": macs,
                "bytes": 4 * params,
                "predicted": {"total": 0.02, "low": 0.01, "high": 0.03, "unit": "share"},
                "curves": None,
                "validation_before": accuracy,
                "validation_cut": cut,
                "groups": [
                    {
                        "name": name,
                        "units": count,
                        "before": before[name],
                        "after": left[name],
                        "histogram": _histogram(draw, before[name], left[name]),
                        "score_unit": "share of the consumer's output energy",
                    }
                    for name, (count, _) in units.items()
                ],
                "compensated": ["conv2", "fc1"],
                "not_compensated": [{"module": "fc2", "reason": "its Gram matrix is singular"}],
            }
        )
        rows.append(_fit(draw, "iteration", at, 4, (cut, 0.9861 - 0.002 * at)))
        accuracy = rows[-1]["epochs"][-1]["validation_accuracy"]
        rows.append({"event": "iteration", "iteration": at, "params": params, "macs": macs})
        rows[-1] |= {"bytes": 4 * params, "validation_accuracy": accuracy}
        rows.append(_information(at, units))
    rows.append({"event": "stop", "reason": "the budget is met"})
    rows.append(_fit(draw, "final", None, 6, (accuracy, 0.9833)))
    dense = {
        "test_accuracy": 355 / 360,
        "validation_accuracy": 0.9861,
        "params": 431080,
        "macs": 2293000,
        "bytes": 1724320,
    }
    pruned = {
        "test_accuracy": 354 / 360,
        "validation_accuracy": 0.9833,
        "params": 42913,
        "macs": 559268,
        "bytes": 171652,
    }
    rows.append({"event": "result", "dense": dense, "pruned": pruned, "test_images": 360})
    layers = [
        ("conv1", "Conv2d", [520, 130], [299520, 74880], [20, 5], [1, 1]),
        ("conv2", "Conv2d", [25050, 1260], [1600000, 80000], [50, 10], [20, 5]),
        ("fc1", "Linear", [400500, 40473], [392570, 40000], [500, 60], [800, 160]),
        ("fc2", "Linear", [5010, 610], [5000, 600], [10, 10], [500, 60]),
    ]
    if groups:
        layers = [
            (name, "Conv2d", [36928, 9232], [600000, 150000], [count, left[name]], [64, 64])
            for name, (count, _) in units.items()
        ]
    keys = ("module", "kind", "params", "macs", "out", "in")
    rows.append(
        {"event": "layers", "layers": [dict(zip(keys, layer, strict=True)) for layer in layers]}
    )
    rows.append({"event": "export", "onnx": "model.onnx", "largest_difference": 3e-7})
    rows[-1] |= {"tolerance": 1e-4, "images": 64}
    batches = {
        "1": _timed((1.23, 1.1, 1.4), (0.68, 0.64, 0.75), (1.8, 1.7, 1.9)),
        "64": _timed((12.84, 12.1, 13.9), (5.58, 5.4, 6.1), (2.3, 2.2, 2.4)),
    }
    rows.append({"event": "timing", "runtime": "eager", "threads": 2, "batches": batches})
    rows.append({"event": "timing", "runtime": "onnxruntime", "threads": 2})
    rows[-1]["batches"] = {"1": _timed((0.6, 0.5, 0.7), (0.6, 0.5, 0.7), (1.01, 0.97, 1.04))}
    return rows


def _timed(*milliseconds: tuple[float, float, float]) -> Row:
    """Return what was timed at one batch: dense and pruned in ms, and the speed-up."""
    keys = ("median", "low", "high")
    dense, pruned, speedup = (dict(zip(keys, found, strict=True)) for found in milliseconds)
    seconds = [{key: value / 1e3 for key, value in side.items()} for side in (dense, pruned)]
    return {"dense": seconds[0], "pruned": seconds[1], "speedup": speedup, "rounds": 50}


def _fit(
    draw: random.Random, phase: str, at: int | None, epochs: int, ends: tuple[float, float]
) -> Row:
    low, high = ends
    curve = [high - (high - low) * 0.4 ** (epoch + 1) for epoch in range(epochs - 1)] + [high]
    return {
        "event": "fit",
        "phase": phase,
        "iteration": at,
        "epochs": [
            {
                "epoch": epoch + 1,
                "loss": 3 * (1.002 - accuracy) * draw.uniform(0.9, 1.1),
                "train_accuracy": min(1.0, accuracy + 0.008),
                "validation_accuracy": accuracy,
                "lr": 0.1 / (epoch + 1),
                "seconds": 1.25,
            }
            for epoch, accuracy in enumerate(curve)
        ],
    }


def _information(at: int, units: dict[str, tuple[int, str]]) -> Row:
    """Return what each consumer explains; the interval of the last one was not measured."""
    layers: list[Row] = []
    share = 0.0
    for rank, (features, consumer) in enumerate(units.values(), 1):
        gain = 0.5 * (1 - share) - 0.01 * at
        share += gain
        sure = None if rank == len(units) else 0.02
        layers.append({"module": consumer, "features": features, "share": share, "gain": gain})
        layers[-1] |= {
            "low": None if sure is None else share - sure,
            "high": None if sure is None else share + sure,
        }
    return {"event": "information", "iteration": at, "layers": layers}


def _histogram(draw: random.Random, before: int, after: int) -> Row:
    scores = sorted(draw.lognormvariate(-4, 1.0) for _ in range(before))
    bins = 20
    edges = [scores[-1] * at / bins for at in range(bins + 1)]
    counts = {"kept": [0] * bins, "removed": [0] * bins}
    for rank, score in enumerate(scores):
        side = "removed" if rank < before - after else "kept"
        counts[side][min(bins - 1, int(score / edges[-1] * bins))] += 1
    return {"edges": edges, **counts}


def write_run(folder: Path, rows: list[Row], config: Row | None = None) -> Path:
    """Write a run folder: config.yaml, record.jsonl, plan.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config or CONFIG))  # JSON is YAML
    (folder / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if rows:  # a plan comes after the first rows
        (folder / "plan.json").write_text(Plan().to_json())
    return folder


@pytest.fixture
def journal() -> list[Row]:
    return make_journal()


@pytest.fixture
def many_groups() -> list[Row]:
    return make_journal(groups=60)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Row]], Path]:
    """Return a function that writes rows as a run folder."""
    return lambda rows: write_run(tmp_path_factory.mktemp("run"), rows)


@pytest.fixture
def config() -> Row:
    return dict(CONFIG)
