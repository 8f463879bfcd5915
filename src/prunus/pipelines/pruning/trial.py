"""A trial of every phase on two small batches: what would fail after hours fails in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.batches import Batch, Loader, read
from prunus.core import (
    ExportError,
    NonFiniteError,
    PrunusError,
    TraceError,
    keeping_random_state,
    one_line,
)
from prunus.criteria import needs_of
from prunus.evaluation import accuracy
from prunus.export import check_exportable
from prunus.graph import Group, Groups
from prunus.modules import private_copy
from prunus.pipelines.pruning.checks import criterion_of
from prunus.plan import plan_units
from prunus.runs import Loaders, PruneConfig, Watch
from prunus.statistics import collect
from prunus.surgery import apply_
from prunus.training import TrainConfig, fit_

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["try_exports", "try_phases"]

#: Batches that a trial reads of each loader, and examples that it uses of each; windows of an image
#: are rarely so many, and must not be taken for images.
BATCHES, EXAMPLES = 2, 3
#: Groups that the trial cut takes a unit of, at most.
GROUPS = 8


def try_phases(
    groups: Groups,
    loaders: Loaders,
    config: PruneConfig,
    *,
    trainings: Sequence[TrainConfig],
    test: Loader | None = None,
    fabric: Fabric | None = None,
) -> None:
    """Run every phase once on the first two batches, three examples of each; nothing is changed.

    In this order: the accuracy on each split, one epoch of each kind of training, the statistics,
    and the repair of a cut of one unit in a few groups. All of it works on private copies of
    `groups.model`, leaves every random state as it is, and takes a few forward passes.

    Raises:
        PrunusError: a phase fails, with its own sentence; `TraceError` where a network's or a
            loader's code raises something else: names the phase and the cause.
    """
    model = private_copy(groups.model)
    with keeping_random_state():
        train, calibration = (_small(each, model) for each in (loaders.train, loaders.calibration))
        splits = {"train": loaders.train, "validation": loaders.validation, "test": test}
        read_already: list[Loader] = []
        for name, loader in splits.items():
            if loader is None or any(loader is other for other in read_already):
                continue
            read_already.append(loader)
            batches = train if loader is loaders.train else _small(loader, model)
            if batches:
                _run(f"the accuracy on the {name} batches", partial(accuracy, model, batches))
        for training in _kinds(trainings):
            _run("training", partial(_train, model, train, training, fabric))
        if calibration:
            _run("the collection of statistics", partial(_collect, groups, calibration, config))
            _run("the repair of a cut", partial(_repair, groups, calibration, config))


def try_exports(model: nn.Module, example: Any, formats: Sequence[str], watch: Watch) -> None:
    """Say which of the formats that are asked for would fail at once for the dense network."""
    for name in formats:
        try:
            with keeping_random_state():
                check_exportable(model, example, name)
        except ExportError as error:
            watch.say(f"warning: {error}; the run goes on, without that file at its end")


def _small(loader: Loader, model: nn.Module) -> list[Batch]:
    """Return the first batches of a loader, a few examples of each."""
    with _same_generators(loader):
        found = list(_run("reading the loader", lambda: list(read(loader, model, None, BATCHES))))
    return [Batch(batch.inputs.first(EXAMPLES).detached(), _first_labels(batch)) for batch in found]


def _first_labels(batch: Batch) -> Tensor | None:
    labels = batch.labels
    return labels if labels is None or not labels.dim() else labels[:EXAMPLES]


@contextmanager
def _same_generators(loader: Loader) -> Iterator[None]:
    """Leave the generators that a loader and its samplers draw from as they are found."""
    holders = [loader, *(getattr(loader, f"{kind}sampler", None) for kind in ("", "batch_"))]
    holders += [getattr(holder, "sampler", None) for holder in holders]
    drawn = [getattr(holder, "generator", None) for holder in holders]
    states = [(g, g.get_state()) for g in drawn if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _kinds(trainings: Sequence[TrainConfig]) -> list[TrainConfig]:
    """Return one short training for each kind of loss among those that run at all."""
    short = {
        replace(each, epochs=1, lr=1e-9, warmup=0.0, schedule="constant", weight_decay=0.0)
        for each in trainings
        if each.epochs
    }
    return sorted(short, key=repr)


def _train(
    model: nn.Module, batches: list[Batch], config: TrainConfig, fabric: Fabric | None
) -> None:
    network = private_copy(model)
    if config.push is not None:  # needs whole batches: only that its layer is found
        fit_(private_copy(model), batches, replace(config, epochs=0), fabric=fabric)
        config = replace(config, push=None)
    teacher = private_copy(model) if config.distill else None
    try:
        fit_(network, batches, config, teacher=teacher, fabric=fabric)
    except NonFiniteError:  # so few labels may all be ignored ones
        return


def _collect(groups: Groups, batches: list[Batch], config: PruneConfig) -> None:
    needed = needs_of(criterion_of(config, seed=0, iteration=0))
    own = replace(groups, model=private_copy(groups.model))
    collect(
        own.model,
        batches,
        own,
        parents=config.parents,
        sampling=config.sampling,
        blocks=1,
        gradients="gradients" in needed,
        all_reduce=False,
    )


def _repair(groups: Groups, batches: list[Batch], config: PruneConfig) -> None:
    """Cut one unit of a few groups out of a copy, and repair what reads them."""
    wide = [group for group in groups.values() if group.units > max(group.least, 1)]
    step = max(1, -(-len(wide) // GROUPS))
    chosen: list[Group] = wide[::step]
    if not chosen or config.compensate in ("bias", "pointwise"):
        return  # these read the statistics alone
    network = private_copy(groups.model)
    own = replace(groups, model=network)
    plan = plan_units(own, {group.name: [group.units - 1] for group in chosen})
    apply_(
        network,
        plan,
        loader=batches,
        groups=own,
        compensate=config.compensate,
        ridge=config.ridge,
        batchnorm=config.batchnorm,
        shrink=config.shrink,
        undo=False,
    )


def _run(phase: str, work: Callable[[], Any]) -> Any:
    """Return what a phase gives; turn what is no sentence of ours into one."""
    try:
        return work()
    except PrunusError:
        raise
    except Exception as error:  # networks' and loaders' code can raise anything
        raise TraceError(
            f"{phase} fails on the first {BATCHES} batches, so nothing was started: "
            f"{one_line(error)}"
        ) from error
