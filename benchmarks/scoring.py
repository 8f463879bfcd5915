"""What scoring costs: statistics + scores + plan against a plain forward pass.

ResNet-56, 2 000 images of 3×32×32, CPU. Both are timed in turn in one run, after a warm-up
each; the ratio is the median over rounds. Peak memory is that of a process of its own for each
pass (Linux: VmHWM); its growth over the state with network and images in place is recorded too.

Usage: python benchmarks/scoring.py [--rounds 5] [--criterion stacked] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from prunus.core import write_whole
from prunus.criteria import needs_of, score
from prunus.criteria.score import make_criterion
from prunus.graph import find_groups
from prunus.models import build_model
from prunus.plan import make_plan
from prunus.statistics import collect

IMAGES, BATCH, SHAPE = 2_000, 128, (3, 32, 32)


def setting():
    """Return network, groups and batches; the same for every measurement."""
    torch.manual_seed(0)
    model = build_model("resnet56", num_classes=10, input_shape=SHAPE).eval()
    images, labels = torch.randn(IMAGES, *SHAPE), torch.arange(IMAGES) % 10
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return model, find_groups(model, images[:1]), batches


def forward(model, groups, batches, criterion) -> None:
    """Run the plain pass."""
    with torch.no_grad():
        for x, _ in batches:
            model(x)


def scoring(model, groups, batches, criterion) -> None:
    """Run the pass with statistics, then scores and plan."""
    rule = make_criterion(criterion)
    found = collect(model, batches, groups, gradients="gradients" in needs_of(rule))
    make_plan(groups, score(groups, found, rule), "macs=50%")


PASSES = {"forward": forward, "scoring": scoring}


def peaks(name: str, criterion: str) -> list[int]:
    """Return peak resident bytes, and their growth over the start, of a pass in a new process."""
    command = [sys.executable, __file__, "--peak", name, "--criterion", criterion]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return [int(number) for number in done.stdout.split()]


def print_peak(name: str, criterion: str) -> None:
    """Child process: print the peak above the state in which network and images are ready."""
    arguments = setting()
    PASSES[name](arguments[0], arguments[1], arguments[2][:1], criterion)  # warm the libraries
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the high-water mark
    before = _status("VmRSS")
    PASSES[name](*arguments, criterion)
    print(_status("VmHWM"), _status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--criterion", default="stacked")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=PASSES)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak, options.criterion)
        return
    arguments = setting()
    seconds: dict[str, list[float]] = {name: [] for name in PASSES}
    for turn in range(options.rounds + 1):
        for name, run in PASSES.items():
            start = time.perf_counter()
            run(*arguments, options.criterion)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    peak = {name: peaks(name, options.criterion) for name in PASSES}
    record = {
        "device": f"{platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "criterion": options.criterion,
        "forward_seconds": statistics.median(seconds["forward"]),
        "scoring_seconds": statistics.median(seconds["scoring"]),
        "time_ratio": statistics.median(ratios),
        "time_ratio_range": [min(ratios), max(ratios)],
        "peak_bytes": {name: found[0] for name, found in peak.items()},
        "growth_bytes": {name: found[1] for name, found in peak.items()},
        "memory_ratio": peak["scoring"][0] / peak["forward"][0],
    }
    backward = "gradients" in needs_of(make_criterion(options.criterion))
    allowed = 3.5 if backward else 1.3
    print(f"time:   scoring ÷ forward = {record['time_ratio']:.2f} (allowed {allowed:.2f})")
    print(f"memory: scoring ÷ forward = {record['memory_ratio']:.2f}")
    if options.out:
        write_whole(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
