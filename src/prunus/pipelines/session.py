"""What every phase of a run shares, and the P-phase."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import Tensor, nn

from prunus.core import derive_seed
from prunus.pipelines.journal import Journal
from prunus.pipelines.watch import Watch
from prunus.training import TrainConfig, fit_

__all__ = ["Loader", "Loaders", "Session", "p_phase_"]

Loader = Iterable[tuple[Tensor, Tensor]]

TITLES = {"dense": "training the dense network", "final": "final training"}


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """What a pipeline reads: training batches, the same images in a fixed order, validation."""

    train: Loader
    calibration: Loader
    validation: Loader


@dataclass(frozen=True, kw_only=True)
class Session:
    """The surroundings of a run: data, device, seed, journal, and who is watching."""

    loaders: Loaders
    fabric: Fabric
    seed: int
    journal: Journal
    watch: Watch


def p_phase_(
    model: nn.Module,
    config: TrainConfig,
    session: Session,
    *,
    phase: str,
    iteration: int | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train the parameters in place, journalled by epochs; return the model.

    `phase` is `dense`, `iteration` or `final`; it names the stream of randomness and, with
    `iteration`, the checkpoint that a killed phase is taken up from.
    """
    step = phase if iteration is None else f"{iteration:03d}"
    title = TITLES.get(phase, f"P-phase {iteration}")
    with session.watch.epochs(title, config.epochs) as on_epoch:
        rows = fit_(
            model,
            session.loaders.train,
            config,
            validation=session.loaders.validation,
            teacher=teacher,
            fabric=session.fabric,
            seed=derive_seed(session.seed, phase, iteration),
            checkpoint=session.journal.checkpoint(step),
            on_epoch=on_epoch,
        )
    session.journal.append_once("fit", {"epochs": rows}, phase=phase, iteration=iteration)
    return model
