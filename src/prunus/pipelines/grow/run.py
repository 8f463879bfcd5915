"""Greedy growing: try one more module in every stage, keep the best, repeat.

Source: [Tian, section 4.2.2, Algorithm 3]. Its text and its listing differ if
no candidate is better than all before: the listing would then try the same candidates again. Here,
as in the text, the best candidate of each step is used for the next one, and growing stops after
`patience` steps without gain; the best network seen is kept.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import (
    RunFolderError,
    derive_seed,
    read_bytes,
    require_sealed,
    to_dict,
    unwritable,
    write_whole,
)
from prunus.export import save_weights
from prunus.models import stage_sizes
from prunus.pipelines.grow.candidate import Bench, Candidate, sizes_row, weights_of
from prunus.pipelines.grow.config import GrowConfig, GrowRunConfig
from prunus.pipelines.grow.setup import bounds, build_base, completed, count_workers
from prunus.pipelines.grow.workers import Crew
from prunus.pipelines.train import run_train
from prunus.runs import (
    Journal,
    RunConfig,
    Watch,
    open_job,
)

__all__ = ["best_step", "run_grow", "why_stop"]

Row = dict[str, Any]


def run_grow(
    config: GrowRunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
    workers: int | None = None,
) -> Journal:
    """Grow a network as specified by `config.grow`, write to `out` and return the journal.

    The initial network has `config.weights`, or is trained first. Each step tries one candidate
    per stage: the weights of the previous step and a new module on top of the stage. The chosen
    candidate is the start of the next step. What is written:

    | path | content |
    |---|---|
    | record.jsonl | `candidate` rows: stage, sizes, params, macs, accuracy, information (before |
    | | training, used by the rule `information`), trained_information, seconds; `step` rows, |
    | | 0 for the start: the network kept, and the stage that each rule would have chosen |
    | models/STEP.safetensors | weights of each step's network, whose name is in its row |
    | steps/ | finished and running candidates, until their step is finished |
    | grown/ | the best network after `config.train`, in a folder as written by `run_train` |

    With `resume`, finished work is not repeated. `workers` processes train candidates in parallel:
    by default one per stage, at most the number of cores, and 1 (this process) on a GPU. With more
    than one, a calling script needs `if __name__ == "__main__":`. Candidates are chosen on
    validation images, so the accuracy on them is optimistic; the test split is read once, at the
    end.

    Raises:
        ConfigError: the network declares no stages, its modules cannot start as the identity with
            `preserve`, or settings are incompatible.
        BudgetError: the bound cannot be parsed, or the initial network exceeds it.
        RunFolderError: `out` contains another run, or this run and `resume` is off.
        PrunusError: a candidate failed or its process died; names it.
        UnknownNameError, DataError, WeightsError, NonFiniteError: see their messages.
    """
    watch = watch or Watch()
    job = open_job(config, "grow")
    bench = Bench(job, out, watch)
    base = build_base(bench)
    limits, enough = bounds(bench, base)
    workers = count_workers(bench, workers, len(stage_sizes(base)))
    bench.config = config = completed(bench, workers)
    job = job.with_config(config)
    with job.begin(out, resume=resume, command=command, watch=watch, workers=workers) as session:
        journal = session.journal
        _start_(base, bench, journal)
        with Crew(bench, workers=workers, threads=config.grow.threads or 1) as crew:
            while journal.record.find("stop") is None:
                steps = journal.record.all("step")
                reason = why_stop(steps, config.grow, enough)
                candidates = _candidates(bench, steps[-1], limits) if reason is None else []
                if candidates:
                    _step(candidates, crew, journal)
                else:
                    reason = reason or f"no candidate fits into {config.grow.budget}"
                    journal.record.append("stop", reason=reason)
                    watch.say(f"growing stopped: {reason}")
        _finish(bench, journal, command)
    return journal


def best_step(steps: Sequence[Row], choose: str) -> Row:
    """Return the row of the best network; of equal ones the first, which is the smallest."""
    return _first_best(steps, choose)


def why_stop(steps: Sequence[Row], config: GrowConfig, enough: float | None = None) -> str | None:
    """Return why growing stops after `steps`, the start first; None if it continues.

    A step has a gain if it is better by more than `min_gain` than the last one with a gain.

    Example:
        >>> rows = [{"accuracy": a} for a in (0.90, 0.92, 0.92, 0.91)]
        >>> why_stop(rows, GrowConfig())
        'no gain within patience=2 steps'
    """
    if enough is not None and steps[-1]["accuracy"] >= enough:
        return f"validation accuracy {enough:.2%} reached"
    if config.steps is not None and len(steps) > config.steps:
        return f"steps={config.steps} reached"
    best, waited = float(steps[0][config.choose]), 0
    for row in steps[1:]:
        if row[config.choose] > best + config.min_gain:
            best, waited = row[config.choose], 0
        else:
            waited += 1
    patience = config.patience
    return f"no gain within {patience=} steps" if waited >= patience else None


def _start_(base: nn.Module, bench: Bench, journal: Journal) -> None:
    """Train the initial network, unless weights are given, and journal it as step 0."""
    if journal.record.find("step", step=0) is not None:
        return
    config, sizes = bench.config, stage_sizes(base)
    trained = None
    if config.weights is None:
        seed = derive_seed(config.seed, "base")
        trained = bench.train_(base, config.grow.base, journal, seed=seed, name=config.model)
    base.to(bench.job.device).eval()
    save_weights(base, weights_of(bench.out, 0))
    journal.seal(_name(bench.out, 0))
    row = sizes_row(base, config.model, sizes, bench.job.example) | bench.measured(base, trained)
    journal.record.append("step", step=0, stage=None, **row, **_kept(bench.out, 0))
    bench.watch.say(f"start: {_said(row)}")


def _candidates(bench: Bench, last: Row, limits: dict[str, float]) -> list[Candidate]:
    """Return the candidates of the next step that are within the limits, in order of stages."""
    found = []
    trained = bench.config.grow.choose == "accuracy"
    for stage in range(len(last["sizes"])):
        candidate = Candidate(
            step=last["step"] + 1, stage=stage, parent=tuple(last["sizes"]), trained=trained
        )
        model = bench.build(candidate.sizes)
        costs = sizes_row(model, bench.config.model, candidate.sizes, bench.job.example)
        if all(costs[currency] <= limit for currency, limit in limits.items()):
            found.append(candidate)
    return found


def _step(candidates: Sequence[Candidate], crew: Crew, journal: Journal) -> None:
    """Try the remaining candidates, keep the best, and journal it as a step."""
    bench, step = crew.bench, candidates[0].step
    rule = bench.config.grow.choose
    _try_all(candidates, crew, journal)
    rows = [_row(journal, candidate) for candidate in candidates]
    chosen = _first_best(rows, rule)
    at = rows.index(chosen)
    if chosen["accuracy"] is None:
        _try_all([dataclasses.replace(candidates[at], trained=True)], crew, journal)
        chosen = _row(journal, candidates[at])
    key = dataclasses.replace(candidates[at], trained=True).key
    folder = bench.out / "steps" / key
    require_sealed(folder, "model.safetensors")
    weights = read_bytes(folder / "model.safetensors", raising=RunFolderError)
    write_whole(weights_of(bench.out, step), weights)
    journal.seal(_name(bench.out, step))
    choices = {
        name: _first_best(rows, name)["stage"]
        for name in ("accuracy", "information", "trained_information")
        if all(each[name] is not None for each in rows)
    }
    row = {name: chosen[name] for name in ("model", "sizes", "params", "macs", "bytes", "accuracy")}
    row["information"] = chosen["trained_information"]
    journal.record.append(
        "step", step=step, stage=chosen["stage"], **row, **_kept(bench.out, step), choices=choices
    )
    bench.watch.say(f"step {step}, kept: {_said(row)}")
    for folder in (bench.out / "steps").glob(f"{step:03d}-*"):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise unwritable(folder, error) from error


def _try_all(candidates: Sequence[Candidate], crew: Crew, journal: Journal) -> None:
    """Try the candidates that are not in the journal, and journal each when it is finished."""
    left = [
        candidate
        for candidate in candidates
        if (row := _find(journal, candidate)) is None
        or (candidate.trained and row["accuracy"] is None)
    ]
    for row in crew.try_all(left):
        journal.record.append("candidate", **row)
        crew.bench.watch.say(f"step {row['step']}, candidate: {_said(row)}")


def _find(journal: Journal, candidate: Candidate) -> Row | None:
    return journal.record.find("candidate", step=candidate.step, stage=candidate.stage)


def _row(journal: Journal, candidate: Candidate) -> Row:
    row = _find(journal, candidate)
    assert row is not None
    return row


def _first_best(rows: Sequence[Row], key: str) -> Row:
    return max(rows, key=lambda row: float(row[key]))


def _kept(out: Path, step: int) -> Row:
    return {"weights": _name(out, step)}


def _name(out: Path, step: int) -> str:
    return weights_of(out, step).relative_to(out).as_posix()


def _said(row: Row) -> str:
    measured = [] if row["accuracy"] is None else [f"validation accuracy {row['accuracy']:.2%}"]
    return ", ".join([row["model"], *measured, f"information {row['information']:.2%}"])


def _finish(bench: Bench, journal: Journal, command: str) -> None:
    """Write the best network as a separate run, after `config.train`, and journal it."""
    config = bench.config
    best = best_step(journal.record.all("step"), config.grow.choose)
    shared = {field.name for field in dataclasses.fields(RunConfig)} & set(to_dict(config))
    values = {name: getattr(config, name) for name in shared}
    values |= {"model": best["model"], "weights": str(bench.out / best["weights"])}
    folder = bench.out / "grown"
    run = run_train(
        RunConfig(**values),
        folder,
        resume=(folder / "config.yaml").exists(),
        command=command,
        watch=bench.watch,
    )
    trained = run.record.find("trained")
    assert trained is not None
    measured = {key: trained[key] for key in ("validation_accuracy", "test_accuracy")}
    journal.append_once(
        "grown", {"step": best["step"], "model": best["model"], "folder": "grown", **measured}
    )
    journal.clean()
