"""Criteria side by side: one recipe, several seeds, Random and L1 rows beside ours.

For every seed one dense LeNet-300-100 is trained on MNIST and pruned under each criterion by the
main job. Two rows a criterion: `one shot` cuts once, repairs, and trains nothing; `PS` is the
PS-iteration. The test split is read once, at the end, at the last epoch.

Usage: python benchmarks/criteria.py --data-root ../shared/data [--seeds 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from cells import accuracy_of, say_cell, write_cells
from prunus.criteria import CRITERIA
from prunus.pipelines import PruneConfig, RunConfig
from prunus.training import TrainConfig

BUDGETS = {"one shot": "params=25%", "PS": "params=2.5%"}
NOTHING = TrainConfig(epochs=0)
PHASES = {
    "one shot": PruneConfig(iterations=1, compensate="pointwise", finetune=NOTHING, final=NOTHING),
    "PS": PruneConfig(
        iterations=4,
        compensate="pointwise",
        finetune=TrainConfig(epochs=1, distill=0.5),
        final=TrainConfig(epochs=5, distill=0.5),
    ),
}


def main() -> None:
    """Run every cell, print the table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {
        mode: {name: [] for name in CRITERIA} for mode in BUDGETS
    }
    dense: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seeds):
            base = RunConfig(
                model="lenet300",
                data="mnist",
                data_root=options.data_root,
                budget="params=99%",
                seed=seed,
                device="cpu",
                train=TrainConfig(epochs=10),
                prune=PHASES["one shot"],
            )
            folder = Path(scratch, f"dense-{seed}")
            dense.append(accuracy_of(base, folder, "dense"))
            weights = str(folder / "dense.safetensors")
            for mode, budget in BUDGETS.items():
                for name in CRITERIA:
                    config = dataclasses.replace(
                        base,
                        budget=budget,
                        weights=weights,
                        prune=dataclasses.replace(PHASES[mode], criterion=name),
                    )
                    out = Path(scratch, f"{mode}-{name}-{seed}")
                    found[mode][name].append(accuracy_of(config, out, "pruned"))
                    print(f"seed {seed} {mode} {name}: {found[mode][name][-1]:.2f}", flush=True)
    print(f"\ndense: {say_cell(dense)}\n")
    print(f"| criterion | {' | '.join(f'{m}, {b}' for m, b in BUDGETS.items())} |")
    print("|---|" + "---|" * len(BUDGETS))
    for name in CRITERIA:
        print(f"| {name} | {' | '.join(say_cell(found[mode][name]) for mode in BUDGETS)} |")
    write_cells(options.out, found, budgets=BUDGETS, dense=dense)


if __name__ == "__main__":
    main()
