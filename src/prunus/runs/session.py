"""What all phases of a run share, and the P-phase (fine-tuning)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from prunus.batches import Loader, count_batches, parse
from prunus.core import Row, derive_seed
from prunus.data import DataSplits, balanced_loader
from prunus.evaluation import LatencyTable
from prunus.runs.journal import Journal
from prunus.runs.watch import Watch
from prunus.training import TrainConfig, fit_

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Loader", "Loaders", "Session", "last_epoch", "p_phase_", "spread"]

TITLES = {
    "dense": "training the dense network",
    "final": "final training",
    "train": "training",
}


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """The data of a pipeline: training batches, the same images in a fixed order, validation."""

    train: Loader
    calibration: Loader
    validation: Loader

    @classmethod
    def of(cls, data: DataSplits) -> Loaders:
        """Return the loaders of data that were opened by name."""
        return cls(train=data.train, calibration=data.calibration, validation=data.validation)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The context of a run: data, device, seed, journal, and the progress display.

    `table` is the dense network's latency on this machine, for a budget in ms. Without `fabric`
    training runs on the CPU; with `channels_last` it uses that memory format.
    """

    loaders: Loaders
    fabric: Fabric | None
    seed: int
    journal: Journal
    watch: Watch
    table: LatencyTable | None = None
    channels_last: bool = False


def p_phase_(
    model: nn.Module,
    config: TrainConfig,
    session: Session,
    *,
    phase: str,
    iteration: int | None = None,
    teacher: nn.Module | None = None,
    parents: Sequence[Sequence[int]] = (),
) -> Row | None:
    """Train the parameters in place and journal each epoch; return the last epoch's row, if any.

    `phase` is `dense`, `train`, `iteration` or `final`; it names the random stream and, with
    `iteration`, the checkpoint that an interrupted phase resumes from. Local teachers
    (`config.local`) go from the coarsest of `parents` to the classes themselves. With
    `config.push` batches are class-balanced (`balanced_loader`).

    Raises:
        ConfigError: `config.push` is used with image targets or with batches that are too small.
    """
    step = phase if iteration is None else f"{iteration:03d}"
    title = TITLES.get(phase, f"fine-tuning {iteration}")
    batches, push = session.loaders.train, config.push
    if push is not None:
        batches = balanced_loader(
            batches, classes=push.classes, per_class=push.per_class, seed=session.seed
        )
    with session.watch.epochs(title, config.epochs) as on_epoch:
        rows = fit_(
            model,
            batches,
            config,
            validation=session.loaders.validation,
            teacher=teacher,
            parents=parents[-1] if parents else None,
            fabric=session.fabric,
            channels_last=session.channels_last,
            seed=derive_seed(session.seed, phase, iteration),
            checkpoint=session.journal.checkpoint(step),
            on_epoch=on_epoch,
        )
    session.journal.append_once("fit", {"epochs": rows}, phase=phase, iteration=iteration)
    return rows[-1] if rows else None


def last_epoch(journal: Journal, phase: str) -> Row | None:
    """Return the last epoch's row of a journalled phase, or None if nothing was trained."""
    fit = journal.record.find("fit", phase=phase)
    return fit["epochs"][-1] if fit is not None and fit["epochs"] else None


def spread(loader: Loader, images: int) -> list[Any]:
    """Return whole batches, evenly spread over the loader, with about `images` images in total.

    The loader is read to its end, because a data set may be ordered by class.
    """
    count = count_batches(loader)
    taken: list[Any] = []
    wanted = 1
    for at, batch in enumerate(loader):
        if at == 0:
            wanted = min(count, math.ceil(images / max(parse(batch).size, 1)))
        if len(taken) < wanted and at * wanted >= len(taken) * count:
            taken.append(batch)
    return taken
