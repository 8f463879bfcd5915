"""How many images per class a trace needs: [Tian, section 3.3.6, Figure 3-20] as a command.

For every seed one dense network is trained and pruned to the same budget by `deep_lda` with the
`threshold` allocation, tracing 1, 2, 5, … images of each class and all of them; latent utilities
always see the whole training split, and retraining does, as in the thesis. Random and L1 rows
stand beside them, under the same recipe. The test split is read once, at the end, at the last
epoch.

Usage: python benchmarks/traced_images.py --data mnist --data-root ../shared/data
           [--model lenet5] [--budget params=10%] [--counts 1,2,5,10,50] [--seeds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from cells import accuracy_of, say_cell, write_cells
from prunus.pipelines import PruneConfig, RunConfig
from prunus.runs.config import LatentConfig
from prunus.training import TrainConfig


def main() -> None:
    """Run every cell, print the table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--budget", default="params=10%")
    parser.add_argument("--counts", default="1,2,5,10,50")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = RunConfig(
        model=options.model,
        data=options.data,
        data_root=options.data_root,
        budget="params=99%",
        train=TrainConfig(epochs=options.epochs),
        prune=PruneConfig(
            iterations=1, finetune=TrainConfig(epochs=0), final=TrainConfig(epochs=0)
        ),
    )
    retrained = PruneConfig(
        iterations=3,
        finetune=TrainConfig(epochs=1, distill=0.5),
        final=TrainConfig(epochs=options.epochs // 2, distill=0.5),
    )
    rows = {"random": dataclasses.replace(retrained, criterion="random")}
    rows["l1"] = dataclasses.replace(retrained, criterion="l1")
    for count in [*map(int, options.counts.split(",")), None]:
        rows[f"{count or 'all'} images a class"] = dataclasses.replace(
            retrained,
            criterion="deep_lda",
            allocation="threshold",
            latent=LatentConfig(images_a_class=count),
        )
    found: dict[str, list[float]] = {"dense": [], **{name: [] for name in rows}}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seeds):
            start = dataclasses.replace(base, seed=seed)
            folder = Path(scratch, f"dense-{seed}")
            found["dense"].append(accuracy_of(start, folder, "dense"))
            for name, settings in rows.items():
                config = dataclasses.replace(
                    start,
                    budget=options.budget,
                    weights=str(folder / "dense.safetensors"),
                    prune=settings,
                )
                found[name].append(accuracy_of(config, Path(scratch, f"{name}-{seed}"), "pruned"))
                print(f"seed {seed} {name}: {found[name][-1]:.2f}", flush=True)
    print(f"\n| traced | test accuracy at {options.budget} |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {say_cell(values)} |")
    about = {key: getattr(options, key) for key in ("model", "data", "budget", "epochs")}
    write_cells(options.out, found, **about)


if __name__ == "__main__":
    main()
