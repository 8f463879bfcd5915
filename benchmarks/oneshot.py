"""One shot: cut a trained CIFAR-10 ResNet, repair it without any training, and measure.

Public weights and all 10 000 test images; scores, repairs and BatchNorm see 2 048 images of the
training split and nothing else, one draw of them a seed. Settings: a half, or three quarters, of
every block's inner channels (the same number for every criterion), and a budget in MACs by each
criterion's own allocation. Torch-Pruning's own pruners run in the same process on the same images.

Usage: python benchmarks/oneshot.py --data-root ../shared/data [--network resnet20]
       [--settings half quarter macs=50% macs=25%] [--criteria …] [--seeds 0 1 2] --out FILE.json
       python benchmarks/oneshot.py --table benchmarks/records/oneshot-*.json
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import statistics as st
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core import write_whole
from prunus.criteria import score
from prunus.evaluation import accuracy, count_macs, count_params
from prunus.graph import Groups, find_groups
from prunus.models import build_model
from prunus.plan import Plan, make_plan, plan_units
from prunus.statistics import Statistics, collect
from prunus.surgery import apply_, reestimate_batchnorm_

CALIBRATION, BATCH = 2_048, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEPT = {"half": 0.5, "quarter": 0.25}

#: Row → (criterion, options, sampling).
CRITERIA = {
    "random": ("random", {}, "patch"),
    "l1": ("l1", {}, "patch"),
    "l2": ("l2", {}, "patch"),
    "bn_scale": ("bn_scale", {}, "patch"),
    "geometric_median": ("geometric_median", {}, "patch"),
    "activation_mean": ("activation_mean", {}, "patch"),
    "activation_variance": ("activation_variance", {}, "patch"),
    "taylor": ("taylor", {}, "patch"),
    "fdr": ("fdr", {}, "patch"),
    "diloss": ("diloss", {}, "patch"),
    "di": ("di", {}, "patch"),
    "cherry": ("cherry", {}, "patch"),
    "dcp": ("dcp", {}, "patch"),
    "bootstrap": ("bootstrap", {}, "patch"),
    "stacked, pixel": ("stacked", {}, "pixel"),
    "stacked, mu=0": ("stacked", {"mu": 0.0}, "patch"),
    "stacked": ("stacked", {}, "patch"),
    "stacked, whitened": ("stacked", {"whiten": True}, "patch"),
}

#: Column → how `apply_` repairs, and whether BatchNorm is re-estimated.
REPAIRS = {
    "none": ("none", "never"),
    "bn": ("none", "always"),
    "pointwise+bn": ("pointwise", "always"),
    "patch": ("patch", "never"),
    "patch+bn": ("patch", "always"),
    "joint": ("joint", "never"),
}

#: Rows that are also repaired jointly, which takes five times as long.
JOINT = ("random", "l2", "stacked, pixel", "stacked")

#: Torch-Pruning's importances, as its pruners take them; the first is its default.
THEIRS = {
    "tp MagnitudePruner": tp.importance.GroupMagnitudeImportance,
    "tp BNScalePruner": tp.importance.BNScaleImportance,
    "tp Taylor": tp.importance.GroupTaylorImportance,
    "tp FPGM": tp.importance.FPGMImportance,
    "tp LAMP": tp.importance.LAMPImportance,
}


@dataclass
class Bench:
    """A network, its test images, and one draw of calibration images with their statistics."""

    dense: nn.Module
    groups: Groups
    test: list[tuple[Tensor, Tensor]]
    calibration: list[tuple[Tensor, Tensor]]
    sums: dict[str, Statistics]
    seed: int


def read_cifar10(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return normalised images and labels."""
    path = root / "cifar10" / "read_cifar10.py"
    if not path.exists():
        sys.exit(f"{path} is missing: give --data-root the folder that holds cifar10/ and weights/")
    spec = importlib.util.spec_from_file_location("read_cifar10", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = module.load(split)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return x, torch.from_numpy(labels)


def batched(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of `size` images."""
    return list(zip(x.split(size), y.split(size), strict=True))


def inner(groups: Groups) -> list[str]:
    """Return the groups of the blocks' inner channels."""
    return [g.name for g in groups.values() if g.name.endswith(".conv1")]


def make_our_plan(bench: Bench, row: str, setting: str) -> Plan:
    """Score by a criterion and plan a setting."""
    criterion, options, sampling = CRITERIA[row]
    if criterion == "random":
        options = {"seed": bench.seed}
    scores = score(bench.groups, bench.sums[sampling], criterion, **options)
    if setting in KEPT:
        gone = {
            name: scores[name].order[: round(bench.groups[name].units * (1 - KEPT[setting]))]
            for name in inner(bench.groups)
        }
        return plan_units(bench.groups, {name: units.tolist() for name, units in gone.items()})
    return make_plan(bench.groups, scores, setting)


def ours(bench: Bench, row: str, setting: str, repairs: list[str], joint: list[str]) -> dict:
    """Cut by one criterion and measure under each repair."""
    start = time.perf_counter()
    plan = make_our_plan(bench, row, setting)
    scored = time.perf_counter() - start
    found, seconds = {}, {}
    for repair in repairs:
        if repair == "joint" and row not in joint:
            continue
        compensate, batchnorm = REPAIRS[repair]
        cut = copy.deepcopy(bench.dense)
        start = time.perf_counter()
        apply_(
            cut,
            plan,
            bench.sums["pixel"],
            loader=bench.calibration,
            groups=bench.groups,
            compensate=compensate,
            batchnorm=batchnorm,
            undo=False,
        )
        seconds[repair] = time.perf_counter() - start
        found[repair] = 100 * accuracy(cut, bench.test)
    return {
        "row": row,
        "accuracy": found,
        "seconds": {"score": scored, **seconds},
        "params": count_params(cut),
        "macs": count_macs(cut, bench.test[0][0][:1]),
    }


def theirs(bench: Bench, row: str, setting: str) -> dict:
    """Cut by one of Torch-Pruning's pruners; it leaves repair to its user."""
    cut = copy.deepcopy(bench.dense)
    example = bench.test[0][0][:1]
    ignored = [
        m
        for n, m in cut.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and not (n.startswith("layer") and "conv1" in n)
    ]
    everywhere = setting not in KEPT
    pruner = tp.pruner.BasePruner(
        cut,
        example,
        importance=THEIRS[row](),
        pruning_ratio=0.98 if everywhere else 1 - KEPT[setting],
        global_pruning=everywhere,
        iterative_steps=200 if everywhere else 1,
        ignored_layers=ignored,
    )
    if "Taylor" in row:
        for x, y in bench.calibration:
            F.cross_entropy(cut(x), y, reduction="sum").backward()
    dense_macs = count_macs(bench.dense, example)
    limit = dense_macs * float(setting[5:-1]) / 100 if everywhere else None
    pruner.step()
    while limit is not None and count_macs(cut, example) > limit:
        pruner.step()
    cut.zero_grad()
    found = {"none": 100 * accuracy(cut, bench.test)}
    reestimate_batchnorm_(cut, bench.calibration)
    found["bn"] = 100 * accuracy(cut, bench.test)
    return {
        "row": row,
        "accuracy": found,
        "params": count_params(cut),
        "macs": count_macs(cut, example),
    }


def run(options: argparse.Namespace) -> None:
    """Measure every row and write the record after each."""
    root = options.data_root
    weights = root / "weights" / f"{options.network}_cifar10.safetensors"
    dense = build_model(
        options.network, num_classes=10, input_shape=(3, 32, 32), weights=weights
    ).eval()
    train, test = read_cifar10(root, "train"), batched(*read_cifar10(root, "test"), 500)
    record = {
        "network": options.network,
        "dense": 100 * accuracy(dense, test),
        "macs": count_macs(dense, test[0][0][:1]),
        "params": count_params(dense),
        "calibration": CALIBRATION,
        "device": f"{platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "torch_pruning": version("torch-pruning"),
        "rows": [],
    }
    for seed in options.seeds:
        drawn = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
        drawn = drawn[:CALIBRATION]
        calibration = batched(train[0][drawn], train[1][drawn], BATCH)
        groups = find_groups(dense, test[0][0][:1])
        sums = {
            "pixel": collect(dense, calibration, groups, sampling="pixel", blocks=1),
            "patch": collect(dense, calibration, groups, sampling="patch", gradients=True),
        }
        bench = Bench(dense, groups, test, calibration, sums, seed)
        for setting in options.settings:
            for row in [] if options.no_rivals else THEIRS:
                torch.manual_seed(seed)
                note(record, options.out, seed, setting, theirs(bench, row, setting))
            for row in options.criteria:
                torch.manual_seed(seed)
                found = ours(bench, row, setting, options.repairs, options.joint)
                note(record, options.out, seed, setting, found)


def note(record: dict, out: Path | None, seed: int, setting: str, found: dict) -> None:
    """Add a row to the record, write it, and show it."""
    record["rows"].append({"seed": seed, "setting": setting, **found})
    shown = ", ".join(f"{k} {v:.2f}" for k, v in found["accuracy"].items())
    print(f"seed {seed}  {setting:9} {found['row']:22} {shown}", flush=True)
    if out:
        write_whole(out, json.dumps(record, indent=1) + "\n")


def table(paths: list[Path]) -> None:
    """Print the tables of `docs/results.md`: mean ± standard deviation over seeds.

    Records of one network are put together: seeds and rows may come from several runs.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for network in dict.fromkeys(r["network"] for r in records):
        same = [r for r in records if r["network"] == network]
        print(f"\n{network}, dense {same[0]['dense']:.2f} %, {same[0]['device']}")
        every = [row for record in same for row in record["rows"]]
        for setting in dict.fromkeys(r["setting"] for r in every):
            _print_setting(setting, [r for r in every if r["setting"] == setting], same[0]["macs"])


def _print_setting(setting: str, rows: list[dict], macs: int) -> None:
    columns = [c for c in REPAIRS if any(c in r["accuracy"] for r in rows)]
    print(f"\n### {setting}\n\n| criterion | MACs kept | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * len(columns))
    for name in dict.fromkeys(r["row"] for r in rows):
        same = [r for r in rows if r["row"] == name]
        share = st.mean(r["macs"] for r in same) / macs
        cells = [_cell([r["accuracy"].get(c) for r in same]) for c in columns]
        print(f"| {name} | {100 * share:.1f} % | {' | '.join(cells)} |")


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    spread = f" ± {st.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{st.mean(known):.1f}{spread}"


def main() -> None:
    """Measure, or print the tables of records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--network", default="resnet20")
    parser.add_argument(
        "--settings", nargs="+", default=["half", "quarter", "macs=50%", "macs=25%"]
    )
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=CRITERIA)
    parser.add_argument("--repairs", nargs="+", default=list(REPAIRS), choices=REPAIRS)
    parser.add_argument("--joint", nargs="+", default=list(JOINT), choices=CRITERIA)
    parser.add_argument("--no-rivals", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print the tables of records")
    options = parser.parse_args()
    if options.table:
        table(options.table)
    else:
        run(options)


if __name__ == "__main__":
    main()
