"""Grow a network, push discrimination into few neurons, prune; and run the rivals alongside.

Source: [Tian, chapter 4]: Algorithm 3 (growing), section 4.1.1 (push),
Algorithm 2 (alternating push and prune), Figures 4-8, 4-9 and 4-11 (accuracy against size).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from prunus.core import DERIVED, PLAIN, ConfigError, FileError, PrunusError, trajectory
from prunus.criteria import CRITERIA
from prunus.models import build_model
from prunus.pipelines.pruning import checked, why_branches_stay
from prunus.pipelines.search.arms import Arms, Start, split_rival
from prunus.pipelines.search.compare import compare
from prunus.pipelines.search.config import SearchConfig
from prunus.plan import ALLOCATIONS, Budget
from prunus.reports import write_report
from prunus.runs import (
    Job,
    Journal,
    Watch,
    open_job,
)

__all__ = ["run_search"]

Row = dict[str, Any]

CURRENCIES = ("params", "macs")


def run_search(
    config: SearchConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
    workers: int | None = None,
) -> Journal:
    """Derive a small network as specified by `config`, and its rivals; return the journal.

    Every arm is a separate run, in a folder that the other commands accept:

    | path | content |
    |---|---|
    | record.jsonl | a row `start`: the grown network, and the numbers of images; a row `arm` for |
    | | each finished arm, with its networks; `failed` for an arm that could not run, with the |
    | | reason; at the end `comparison`: the lead of the derived networks at equal cost, on |
    | | validation |
    | report.html | accuracy against size of all networks; rewritten after every arm |
    | grow/ | the run of `run_grow` |
    | pushed/, plain/ | the grown network trained with the push and without |
    | derived/ | the pushed network pruned: the result, to be loaded and exported |
    | finished/ITERATION/ | the intermediate networks, trained further; 000: the pushed one |
    | rivals/NAME/ | the plain network pruned by another criterion |
    | trained/STEP/ | networks of the growing steps, trained further |
    | scratch/ITERATION/ | structures of `derived/`, trained from random weights |
    | fixed/NAME/ | other networks, trained |

    With `resume`, finished work is not repeated. Choices and curves use validation images; the
    test split is read once for every finished network.

    Raises:
        ConfigError: a rival, fixed network or setting is unknown or incompatible; raised before
            any training.
        RunFolderError: `out` contains another run, or this run and `resume` is off.
        PrunusError: growing, pushing or pruning failed. A rival that fails is journalled.
    """
    watch = watch or Watch()
    _check(config)
    job = open_job(config, "search")
    images = _look_at_data(job)
    with job.begin(out, resume=resume, command=command, watch=watch) as session:
        journal = session.journal
        arms = Arms(config=job.config, out=out, command=command, watch=watch, workers=workers)
        start = arms.grow()
        journal.append_once("start", {"model": start.model, "steps": list(start.grown), **images})
        for key, networks, needed in _schedule(arms, start, journal):
            if not _done(journal, key):
                _run_arm(key, networks, needed, journal, watch)
                write_report(out)
        all_found = [row for arm in journal.record.all("arm") for row in arm["networks"]]
        found = [row for currency in CURRENCIES for row in compare(all_found, currency)]
        journal.append_once("comparison", {"arms": found})
        write_report(out)
    return journal


def _run_arm(
    key: str,
    networks: Callable[[], Iterator[Row]],
    needed: bool,
    journal: Journal,
    watch: Watch,
) -> None:
    """Run an arm and journal its networks, or why it could not run if the search goes on."""
    watch.say(f"— {key} —")
    began = time.perf_counter()
    try:
        rows = list(networks())
    except PrunusError as error:
        if needed or isinstance(error, FileError):  # a full disk is no fault of the arm
            raise
        journal.record.append("failed", key=key, reason=str(error))
        watch.say(f"{key} could not run: {error}")
    else:
        seconds = round(time.perf_counter() - began, 3)
        journal.record.append("arm", key=key, networks=rows, seconds=seconds)


def _schedule(
    arms: Arms, start: Start, journal: Journal
) -> Iterator[tuple[str, Callable[[], Iterator[Row]], bool]]:
    """Yield each arm: its key, its run, and whether the search fails without it."""
    config = arms.config
    yield "pushed", partial(arms.train, start, DERIVED), True
    yield DERIVED, partial(arms.prune, start, DERIVED, DERIVED), True
    pushed, derived = (journal.record.find("arm", key=key) for key in ("pushed", DERIVED))
    assert pushed is not None and derived is not None
    *way, finished = derived["networks"]
    epochs = finished["epochs"]
    made = [i for i in trajectory(Journal(arms.out / DERIVED).record.rows, "iteration") if i]
    if config.finish:
        starts = [(0, row) for row in pushed["networks"]]
        for iteration, row in (*starts, *zip(made[:-1], way[:-1], strict=True)):
            yield (
                f"finished {iteration}",
                partial(arms.finish, start, row, iteration, epochs),
                False,
            )
    for step in start.grown if config.grown else ():
        yield f"grown {step['step']}", partial(arms.grown, step, epochs), False
    iterations = sorted(Journal(arms.out / DERIVED).plans())
    chosen = {"none": [], "final": iterations[-1:], "all": iterations}[config.scratch]
    for iteration in chosen:
        yield f"scratch {iteration}", partial(arms.scratch, start, iteration, epochs), False
    if config.rivals:
        yield PLAIN, partial(arms.train, start, PLAIN), True
    for rival in config.rivals:
        criterion, allocation = split_rival(rival)
        changes: dict[str, Any] = {"criterion": criterion, "options": {}}
        if allocation is not None:
            changes["allocation"] = allocation
        if why_branches_stay(dataclasses.replace(config.prune, **changes)):
            changes["drop_branches"] = False
        folder = f"rivals/{rival.replace('/', '-')}"
        yield rival, partial(arms.prune, start, rival, folder, **changes), False
    for name in config.fixed:
        yield f"fixed {name}", partial(arms.fixed, name, epochs), False


def _done(journal: Journal, key: str) -> bool:
    return any(journal.record.find(event, key=key) is not None for event in ("arm", "failed"))


def _check(config: SearchConfig) -> None:
    """Raise if settings are incompatible."""
    Budget.parse(config.budget)
    for name, train in (
        ("train", config.train),
        ("prune.finetune", config.prune.finetune),
        ("prune.final", config.prune.final),
    ):
        if train.push is not None:
            raise ConfigError(
                f"{name}.push given, but a search uses the single setting `push` for all its own "
                "trainings and none for its rivals: set the terms there, e.g. --set push.align=0"
            )
    checked(dataclasses.replace(config.prune, keep_class=()))
    if config.prune.drop_branches and (reason := why_branches_stay(config.prune)):
        raise ConfigError(
            f"{reason}: pass --set prune.drop_branches=false, or choose another allocation"
        )
    for rival in config.rivals:
        criterion, allocation = split_rival(rival)
        if criterion not in CRITERIA or allocation not in (None, *ALLOCATIONS):
            raise ConfigError(
                f"unknown rival {rival!r}: expected CRITERION or CRITERION/ALLOCATION, e.g. "
                f"l1/global; criteria: {', '.join(CRITERIA)}; allocations: {', '.join(ALLOCATIONS)}"
            )
        checked(dataclasses.replace(config.prune, criterion=criterion, options={}, keep_class=()))
    if len(set(config.rivals)) < len(config.rivals):
        raise ConfigError(f"rivals {', '.join(config.rivals)}: duplicate name, give each only once")


def _look_at_data(job: Job[SearchConfig]) -> dict[str, int]:
    """Return the numbers of validation and test images, after building the fixed networks."""
    data = job.data
    for name in job.config.fixed:
        build_model(name, num_classes=data.num_classes, input_shape=data.input_shape)
    return {f"{name}_images": len(getattr(data, name).dataset) for name in ("validation", "test")}
