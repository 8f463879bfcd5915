"""Cells of a table over seeds: a test accuracy of the main job each, its mean, and the record."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prunus.core import write_whole
from prunus.pipelines import RunConfig, run_prune


def accuracy_of(config: RunConfig, folder: Path, side: str) -> float:
    """Run the main job and return a test accuracy in percent, of `dense` or `pruned`."""
    result = run_prune(config, folder).record.find("result")
    assert result is not None
    return 100 * result[side]["test_accuracy"]


def say_cell(values: Sequence[float]) -> str:
    """Return mean ± standard deviation; of one value the deviation is 0."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def write_cells(out: Path | None, found: Any, **about: Any) -> None:
    """Write the accuracies of every cell and what they are of as JSON, where `out` is given."""
    if out is not None:
        record = {
            **about,
            "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "test_accuracy": found,
        }
        write_whole(out, json.dumps(record, indent=1) + "\n")
