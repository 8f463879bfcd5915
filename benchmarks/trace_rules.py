"""Deconvolution or relevance: what a cut by traces leaves of a pushed network, at once.

A finished run (as `prunus push` leaves it) is cut to each budget by `deep_lda` with the `threshold`
allocation, once with either rule of the trace, without any training; Random, L1 and the default
score stand beside. Scores and repairs see 2 048 training images, accuracy is that of validation.

Usage: python benchmarks/trace_rules.py RUN [--budgets params=30% params=1%] [--out FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from prunus import load
from prunus.core import read_yaml
from prunus.criteria import latent_utility
from prunus.criteria.score import score
from prunus.evaluation import accuracy, count_params
from prunus.graph.trace import find_groups
from prunus.modules.copies import private_copy
from prunus.pipelines import RunConfig
from prunus.pipelines.latent import choose_dimensions
from prunus.plan.allocate import make_plan
from prunus.runs.config import LatentConfig
from prunus.runs.environment import open_data
from prunus.runs.session import spread
from prunus.statistics.collect import collect
from prunus.statistics.traces import trace_utility
from prunus.surgery.apply import apply_

IMAGES = 2048
REPAIRS = ("none", "pointwise", "patch")
RIVALS = ("random", "l1", "stacked")


def main() -> None:
    """Cut, measure, print and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--budgets", nargs="+", default=["params=30%", "params=6%", "params=1%"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = read_yaml(RunConfig, options.run / "config.yaml")
    data, model = open_data(config), load(options.run)
    few = spread(data.calibration, IMAGES)
    groups = find_groups(model, torch.zeros(1, *data.input_shape))
    statistics = collect(model, few, groups)
    latent = latent_utility(groups, statistics)
    kept, _ = choose_dimensions(model, groups, latent, LatentConfig(), data.validation)
    scores = {}
    for rule in ("deconvolution", "relevance"):
        traces = trace_utility(model, few, groups, kept, rule=rule)
        scores[f"deep_lda, {rule}"] = score(groups, statistics.with_traces(traces), "deep_lda")
    scores |= {name: score(groups, statistics, name) for name in RIVALS}
    print("| score | budget | parameters | " + " | ".join(REPAIRS) + " |")
    for budget in options.budgets:
        for name, found in scores.items():
            allocation = "threshold" if name.startswith("deep_lda") else "global"
            plan = make_plan(groups, found, budget, allocation=allocation)
            row = {"run": str(options.run), "score": name, "budget": budget}
            for repair in REPAIRS:
                cut = private_copy(model)
                some = few if repair == "patch" else None
                apply_(cut, plan, statistics, loader=some, groups=groups, compensate=repair)
                row |= {"params": count_params(cut), repair: accuracy(cut, data.validation)}
            shown = " | ".join(f"{100 * row[repair]:.1f}" for repair in REPAIRS)
            print(f"| {name} | {budget} | {row['params']:,} | {shown} |", flush=True)
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
