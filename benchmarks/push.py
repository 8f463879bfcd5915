"""What the push costs: a training step with it against the same step without.

Networks whose last hidden layer is 512 wide, batches of 128 images 3×32×32 of ten classes, CPU:
VGG-16 with its hidden layer of 512, and ResNet-10 of [Tian, Table 4-3], a tenth of the work.
A step is what `fit_` does: forward, loss, backward, clipping, AdamW. Both steps run on the same
network and batch in turn, after a warm-up each, the first of a round alternating; the ratio is the
median over rounds, of the clock and of processor time, which other programs disturb less.
Allowed: 1.1.

Usage: python benchmarks/push.py [--rounds 5] [--models vgg16 tiny_resnet10] [--out FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.models import build_model
from prunus.training import Push, PushConfig, TrainConfig, task_loss
from prunus.training.schedule import make_optimizer

BATCH, SHAPE, CLASSES, ALLOWED = 128, (3, 32, 32), 10, 1.1
MODELS = ("vgg16", "tiny_resnet10")
HERE = Path(__file__).parent


def steps(name: str, config: TrainConfig) -> tuple[dict[str, Callable[[], None]], list[int]]:
    """Return the plain and the pushed step on one network, and the widths that were pushed."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=CLASSES, input_shape=SHAPE).train()
    optimizer = make_optimizer(model, config)
    x, y = torch.randn(BATCH, *SHAPE), torch.arange(BATCH) % CLASSES
    push = Push(model, config.push or PushConfig())
    widths: list[int] = []

    def finish(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()

    def plain() -> None:
        finish(task_loss(model(x), y, config))

    def pushed() -> None:
        with push.listening():
            loss = task_loss(model(x), y, config)
            heard = push.read(y, done=1.0)
            assert heard is not None
            widths.append(model.get_submodule(push.head or "").in_features)
            finish(loss + heard[0].to(loss))

    return {"plain": plain, "pushed": pushed}, widths


def measure(name: str, rounds: int) -> dict[str, object]:
    """Return the record of one network."""
    config = TrainConfig(push=PushConfig())
    runs, widths = steps(name, config)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    work: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 1):
        for key in sorted(runs, reverse=bool(turn % 2)):
            start, worked = time.perf_counter(), time.process_time()
            runs[key]()
            if turn:
                seconds[key].append(time.perf_counter() - start)
                work[key].append(time.process_time() - worked)
    ratios = [b / a for a, b in zip(seconds["plain"], seconds["pushed"], strict=True)]
    worked_ratios = [b / a for a, b in zip(work["plain"], work["pushed"], strict=True)]
    return {
        "model": name,
        "width": widths[0],
        "batch": BATCH,
        "rounds": rounds,
        "plain_seconds": statistics.median(seconds["plain"]),
        "pushed_seconds": statistics.median(seconds["pushed"]),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "processor_ratio": statistics.median(worked_ratios),
        "processor_ratio_range": [min(worked_ratios), max(worked_ratios)],
        "allowed": ALLOWED,
        "device": f"{platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, print, and append the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE / "records" / "push.jsonl")
    options = parser.parse_args()
    for name in options.models:
        record = measure(name, options.rounds)
        print(
            f"{name}: pushed ÷ plain = {record['ratio']:.3f} by the clock, "
            f"{record['processor_ratio']:.3f} of processor time (allowed {ALLOWED})",
            flush=True,
        )
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
