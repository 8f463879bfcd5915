"""The folders that are damaged: one of every kind, each made once by the code that users run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.models import build_model
from prunus.runs import p_phase_
from tests.cli.command import prunus_

OLD = Path(__file__).parents[1] / "old_runs" / "0.1-lenet300"

DATA = ("--data", "digits", "--input-shape", "1,8,8", "--device", "cpu")
BRIEF = (
    *("--epochs", "1", "--finetune-epochs", "1", "--final-epochs", "0", "--iterations", "2"),
    *("--criterion", "l1", "--set", "prune.compensate=none", "--set", "prune.runtimes=[]"),
    *("--set", "prune.calibration_batches=2"),
)
PRUNE = ("prune", "--model", "lenet300", *DATA, "--budget", "params=40%", *BRIEF)
GROW = (
    *("grow", "--model", "resnet20", *DATA, "--steps", "1", "--workers", "1"),
    *("--base-epochs", "0", "--candidate-epochs", "0", "--set", "grow.images=32"),
)
SEARCH = (
    *("search", "--model", "lenet300", *DATA, "--budget", "params=50%", "--no-grow", *BRIEF),
    *("--allocation", "global", "--set", "prune.drop_branches=false", "--rivals", ""),
    *("--scratch", "final", "--set", "export=[]", "--set", "finish=false"),
)


class Killed(BaseException):
    """What ends a run in the middle, as a signal does."""


def run(*arguments: str | Path) -> None:
    assert prunus_(*arguments) == 0, arguments


def finished(out: Path) -> None:
    run(*PRUNE, "--set", "prune.keep_networks=true", "--export", "onnx,pt2", "--out", out)


def unfinished(out: Path, *more: str) -> None:
    """A run that was killed in the second fine-tuning, after an epoch of two."""

    def interrupted(*given: object, iteration: int | None = None, **named: object) -> object:
        watch = given[2].watch if len(given) > 2 else named["session"].watch  # type: ignore[attr-defined]
        if iteration == 2:
            watch.epochs = stopping(watch.epochs)
        return p_phase_(*given, iteration=iteration, **named)  # type: ignore[arg-type]

    def stopping(epochs: Callable[..., object]) -> Callable[..., object]:
        from contextlib import contextmanager

        @contextmanager
        def killed(title: str, total: int) -> object:
            def on_epoch(row: object) -> None:
                raise Killed

            yield on_epoch

        return killed

    longer = ("--set", "prune.finetune.epochs=2")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("prunus.pipelines.pruning.iteration.p_phase_", interrupted)
        prunus_(*PRUNE, *longer, *more, "--export", "", "--out", out)


def train(out: Path) -> None:
    run("train", "--model", "lenet300", *DATA, "--epochs", "1", "--out", out)


def grow(out: Path) -> None:
    run(*GROW, "--out", out)


def search(out: Path) -> None:
    run(*SEARCH, "--out", out)


def saved(out: Path) -> None:
    """What `Report.save` writes: no configuration."""
    none = prunus.TrainConfig(epochs=0)
    config = prunus.PruneConfig(
        criterion="l1", compensate="none", iterations=1, finetune=none, final=none, runtimes=()
    )
    _, report = prunus.prune(network(), loader(), "params=50%", config=config, device="cpu")
    report.save(out)


def checkpoint(out: Path) -> None:
    """A plan and weights alone, as a trainer's callback leaves them: nothing seals them."""
    saved(out)
    for path in out.iterdir():
        if path.name not in ("plan.json", "model.safetensors"):
            path.unlink()


def old(out: Path) -> None:
    shutil.copytree(OLD, out)


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model("lenet300", num_classes=10, input_shape=(1, 8, 8))


def loader() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 10)]


def others(out: Path) -> None:
    """Files of another run of the same names: what a wrong copy leaves."""
    out.mkdir()
    run(
        *PRUNE,
        "--seed",
        "1",
        "--export",
        "",
        "--set",
        "prune.keep_networks=true",
        "--out",
        out / "prune",
    )
    shutil.copytree(out / "prune", out, dirs_exist_ok=True)
    unfinished(out / "killed", "--seed", "1")
    shutil.copytree(out / "killed" / "steps", out / "steps")


KINDS: dict[str, Callable[[Path], None]] = {
    "finished": finished,
    "unfinished": unfinished,
    "train": train,
    "grow": grow,
    "search": search,
    "saved": saved,
    "checkpoint": checkpoint,
    "old": old,
}
#: Those that the suite makes; the others take seconds.
QUICK = ("finished", "unfinished", "train", "saved", "checkpoint", "old")
