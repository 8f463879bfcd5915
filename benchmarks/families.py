"""Branches scored together or each alone: what a cut leaves of a network that concatenates.

A finished run (as `prunus train` leaves it) is cut to each budget by scores that count on what the
rest makes up for: once over all groups that common consumers concatenate (`Elimination.jointly`),
once with each group separately, as if the others were kept. Random and L1 are rows, too. The cut is
repaired jointly and not trained. Scores see 4 096 training images and repairs 512 of them; the
accuracy is that of validation.

Usage: python benchmarks/families.py RUN [--scores stacked l1] [--budgets params=60%]
                       [--allocations global uniform] [--drop-branches] [--out FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from prunus import load
from prunus.core import read_yaml
from prunus.criteria import Scores
from prunus.criteria.score import make_criterion, score
from prunus.evaluation import accuracy, count_params
from prunus.graph import Groups
from prunus.graph.trace import find_groups
from prunus.modules.copies import private_copy
from prunus.pipelines import RunConfig
from prunus.plan import ALLOCATIONS
from prunus.plan.allocate import make_plan
from prunus.runs.environment import open_data
from prunus.runs.session import spread
from prunus.statistics import Statistics
from prunus.statistics.collect import collect
from prunus.surgery import sound_branches
from prunus.surgery.apply import apply_

IMAGES, REPAIRED = 4096, 512
JOINT = ("stacked", "di")
RIVALS = ("l1", "random")


def alone(groups: Groups, statistics: Statistics, name: str) -> Scores:
    """Score each group as if those that its consumers see beside it stayed."""
    rule = make_criterion(name)
    found = {group.name: rule(groups, group, statistics) for group in groups.values()}
    return Scores(found, name, rule.unit, rule.comparable, {})


def main() -> None:
    """Cut, repair, measure, print and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scores", nargs="+", default=[*JOINT, *RIVALS])
    parser.add_argument("--budgets", nargs="+", default=["params=60%", "params=40%"])
    parser.add_argument("--allocations", nargs="+", default=["global"], choices=ALLOCATIONS)
    parser.add_argument("--drop-branches", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = read_yaml(RunConfig, options.run / "config.yaml")
    data, model = open_data(config), load(options.run)
    example = torch.zeros(1, *data.input_shape)
    groups = find_groups(model, example, drop_branches=options.drop_branches)
    if options.drop_branches:
        groups = sound_branches(groups, example)
    few = spread(data.calibration, IMAGES)
    statistics = collect(model, few, groups, sampling="pixel")
    scores = {}
    for name in options.scores:
        if name in JOINT:
            scores[f"{name}, together"] = score(groups, statistics, name)
            scores[f"{name}, each alone"] = alone(groups, statistics, name)
        else:
            scores[name] = score(groups, statistics, name)
    print(f"uncut: {100 * accuracy(model, data.validation):.2f} %")
    print("| score | allocation | " + " | ".join(options.budgets) + " |")
    for name, found in scores.items():
        for allocation in options.allocations:
            cells = []
            for budget in options.budgets:
                plan = make_plan(groups, found, budget, allocation=allocation)
                cut = private_copy(model)
                images = spread(few, REPAIRED)
                apply_(cut, plan, statistics, loader=images, groups=groups, compensate="joint")
                row = {
                    "run": options.run.name,
                    "model": config.model,
                    "data": config.data,
                    "drop_branches": options.drop_branches,
                    "score": name,
                    "allocation": allocation,
                    "budget": budget,
                    "params": count_params(cut),
                    "validation_accuracy": accuracy(cut, data.validation),
                }
                cells.append(f"{100 * row['validation_accuracy']:.2f}")
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
            print(f"| {name} | {allocation} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
