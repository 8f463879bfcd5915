"""How much of a cut in MACs arrives on the clock: ResNet-50, MobileNet-V2, VGG-16, ViT-S.

Random weights, 224 pixels, CPU. Each network is cut to 50 % of its MACs, by L2: `global` and
`uniform` allocation, any width, multiples of 8, and the multiple that `choose_round_to` finds in
the network's own steps. Torch-Pruning's MagnitudePruner, uniform as by default, is beside it at the
same MACs (its ratio found by bisection), with `round_to` None and 8.

All networks of a model are timed in turn in one process, in PyTorch, in ONNX Runtime and, some
of them, compiled; after a warm-up, dense beside pruned, round by round. Reported are the
speed-up, dense ÷ pruned, with its 95 % interval, and the quotient: speed-up ÷ (dense MACs ÷ pruned
MACs). The MACs are counted by PyTorch's FlopCounterMode.

Usage: python benchmarks/latency.py --out FILE.jsonl [--only vgg16 …] [--runtimes eager …]
       [--batches 1 8] [--compiled uniform/8 …] [--rounds 30] [--seconds 120] [--threads N]
       python benchmarks/latency.py --table FILE.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from prunability import heads
from prunus.core import import_without_telemetry
from prunus.core.errors import ExportError
from prunus.criteria import score
from prunus.evaluation import (
    RUNTIMES,
    RuntimeUnavailableError,
    compare_latency,
    compiled_call,
    count_macs,
    eager_call,
    measure_latency_table,
    onnx_call,
)
from prunus.export import export_onnx
from prunus.graph import find_groups
from prunus.graph.probe import probe
from prunus.plan import choose_round_to, make_plan
from prunus.surgery import replay_, unsound_groups

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": torchvision.models.resnet50,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "vgg16": torchvision.models.vgg16,
    "vit_small_patch16_224": lambda: timm.create_model("vit_small_patch16_224"),
}
KEPT = 0.5
#: What is compiled by default: it takes a minute or more per network.
COMPILED = ("uniform/8", "uniform/16", "torch-pruning/8")


def networks(name: str) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Return the dense and the pruned networks of a model, and what was found on the way."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    image = torch.randn(1, 3, 224, 224)
    groups = find_groups(model, image, inputs=False)
    groups = groups.without(unsound_groups(groups, image))
    table = measure_latency_table(model, groups, image, grid=(1.0,), repeats=5, steps=True)
    chosen = choose_round_to(table, groups)
    print(f"{name}: {chosen.reason}", flush=True)
    scores = score(groups, None, "l2")
    found = {"dense": model}
    for allocation in ("global", "uniform"):
        for multiple in sorted({1, 8, chosen.multiple}):
            plan = make_plan(
                groups, scores, f"macs={100 * KEPT}%", allocation=allocation, round_to=multiple
            )
            found[f"{allocation}/{multiple}"] = replay_(copy.deepcopy(model), plan).eval()
    facts = {"chosen": chosen.multiple, "reason": chosen.reason, "failed": {}}
    for multiple in (None, 8):
        key = f"torch-pruning/{multiple or 1}"
        try:
            found[key] = rival(model, image, multiple)
        except Exception as error:  # a rival that fails is a row that says so
            facts["failed"][key] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(f"{key}: {facts['failed'][key]}", flush=True)
    return found, facts


def rival(model: nn.Module, image: Tensor, multiple: int | None) -> nn.Module:
    """Return what Torch-Pruning makes of `model` with the most MACs that are at most `KEPT`."""
    dense = count_macs(model, image)
    ends = sorted(probe(copy.deepcopy(model), (image,)).ends)
    low, high, best, most = 0.0, 1.0, None, 0.0
    for _ in range(9):
        ratio = (low + high) / 2
        cut = copy.deepcopy(model)
        pruner = tp.pruner.MagnitudePruner(
            cut,
            image,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[cut.get_submodule(each) for each in ends],
            num_heads=heads(cut),
            round_to=multiple,
        )
        pruner.step()
        for module in cut.modules():  # timm's attention reshapes by these, as its examples fix it
            if (qkv := getattr(module, "qkv", None)) in pruner.num_heads:
                module.num_heads = pruner.num_heads[qkv]
                module.attn_dim = qkv.out_features // 3
                module.head_dim = module.attn_dim // module.num_heads
        kept = count_macs(cut, image) / dense
        if kept > KEPT:
            low = ratio
            continue
        high = ratio
        if kept > most:
            best, most = cut.eval(), kept
    if best is None:
        raise ValueError(f"no ratio tried leaves at most {KEPT:.0%} of the MACs")
    return best


def calls(
    runtime: str, nets: dict[str, nn.Module], images: Tensor, folder: Path
) -> dict[str, Callable[[], object]]:
    """Return every network as a call on `images`."""
    if runtime == "eager":
        return {key: eager_call(net, images) for key, net in nets.items()}
    if runtime == "compile":
        torch.compiler.reset()
        return {key: compiled_call(net, images) for key, net in nets.items()}
    found = {}
    for key, net in nets.items():
        path = folder / f"{key.replace('/', '-')}.onnx"
        if not path.exists():
            export_onnx(net, images[:1], path)
        found[key] = onnx_call(path, images)
    return found


def measure(
    runtime: str, nets: dict[str, nn.Module], batch: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Time the networks at one batch; return a network's figures by key, or why there are none."""
    macs = {key: count_macs(net, torch.randn(1, 3, 224, 224)) for key, net in nets.items()}
    try:
        timed = compare_latency(
            calls(runtime, nets, torch.randn(batch, 3, 224, 224), folder),
            rounds=options.rounds,
            seconds=options.seconds,
        )
    except (RuntimeUnavailableError, ExportError) as error:
        return {"skipped": str(error)}
    figures = {}
    for key in nets:
        less, faster = macs["dense"] / macs[key], asdict(timed.speedup("dense", key))
        figures[key] = {
            "macs": macs[key],
            "ms": {bound: 1e3 * value for bound, value in asdict(timed.latency(key)).items()},
            "mac_reduction": less,
            "speedup": faster,
            "quotient": {bound: value / less for bound, value in faster.items()},
        }
    return {"rounds": timed.rounds, "networks": figures}


def run(options: argparse.Namespace) -> None:
    """Measure what the record has no row of; append a row for each model, runtime and batch."""
    done = {key(row) for row in (read([options.out]) if options.out.exists() else [])}
    for name in options.only or MODELS:
        tasks = [
            (runtime, batch)
            for runtime in options.runtimes
            for batch in (options.batches if runtime != "compile" else options.batches[:1])
            if (name, runtime, batch) not in done
        ]
        if not tasks:
            continue
        nets, facts = networks(name)
        with tempfile.TemporaryDirectory() as folder:
            for runtime, batch in tasks:
                some = nets
                if runtime == "compile":
                    some = {k: n for k, n in nets.items() if k in ("dense", *options.compiled)}
                start = time.perf_counter()
                row = {
                    "model": name,
                    "runtime": runtime,
                    "batch": batch,
                    **facts,
                    **measure(runtime, some, batch, Path(folder), options),
                    "machine": machine(),
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                    "onnxruntime": import_without_telemetry("onnxruntime").__version__,
                    "torch_pruning": version("torch-pruning"),
                    "seconds": round(time.perf_counter() - start, 1),
                }
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                show(row)


def machine() -> str:
    """Name the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def show(row: dict[str, Any]) -> None:
    """Print a row for people."""
    print(f"{row['model']}, {row['runtime']}, batch {row['batch']}: {row['seconds']} s")
    if "skipped" in row:
        print(f"  skipped: {row['skipped']}", flush=True)
        return
    for name, found in row["networks"].items():
        print(
            f"  {name:18} {found['ms']['median']:9.2f} ms  MACs ÷ {found['mac_reduction']:.2f}  "
            f"{words(found)}",
            flush=True,
        )


def words(found: dict[str, Any]) -> str:
    """Return speed-up, its interval, and the quotient."""
    speedup, quotient = found["speedup"], found["quotient"]
    return (
        f"{speedup['median']:.2f} ({speedup['low']:.2f}–{speedup['high']:.2f}), "
        f"**{quotient['median']:.2f}**"
    )


def key(row: dict[str, Any]) -> tuple[str, str, int]:
    """Return what a row is of."""
    return row["model"], row["runtime"], row["batch"]


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of records; of one measured twice, the last."""
    rows = [
        json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return list({key(row): row for row in rows}.values())


def table(paths: list[Path]) -> None:
    """Print the records as Markdown: a table for each model, a column for each runtime."""
    rows = read(paths)
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        first = mine[0]
        print(f"\n### {name}\n\n{first['machine']}, {first['threads']} threads, ", end="")
        print(f"torch {first['torch']}, ONNX Runtime {first['onnxruntime']}. ", end="")
        print(f"Chosen: {first['reason']}.\n")
        heads_ = [f"{row['runtime']}, batch {row['batch']}" for row in mine]
        print(f"| | MACs ÷ | {' | '.join(heads_)} |")
        print("|---" * (2 + len(mine)) + "|")
        nets = dict.fromkeys(each for row in mine for each in row.get("networks", {}))
        for each in nets:
            found = [row.get("networks", {}).get(each) for row in mine]
            less = next(one["mac_reduction"] for one in found if one)
            cells = [_cell(each, one) for one in found]
            print(f"| {each} | {less:.2f} | {' | '.join(cells)} |")
        for row in mine:
            if "skipped" in row:
                print(f"\n{row['runtime']}, batch {row['batch']}, is left out: {row['skipped']}.")
        for each, why in first["failed"].items():
            print(f"\n{each} is left out: {why}.")


def _cell(name: str, found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['ms']['median']:.1f} ms" if name == "dense" else words(found)


def main() -> None:
    """Measure, or print the tables of records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="MODEL")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="compile: the first")
    parser.add_argument("--compiled", nargs="+", default=COMPILED, metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=120.0, help="a runtime and batch, about")
    parser.add_argument("--threads", type=int, help="by default what PyTorch takes")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="record, continued where it ends")
    task.add_argument("--table", type=Path, nargs="+", help="print the tables of records")
    options = parser.parse_args()
    if options.table:
        table(options.table)
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    run(options)


if __name__ == "__main__":
    main()
