"""Greedy growing: try a module more in every stage, keep the best, go on.

Source: [Tian, section 4.2.2, Algorithm 3]. Its text and its listing differ where
no candidate is better than all before: the listing would then try the same candidates again. Here,
as in the text, the best of each step goes on, and growing stops after `patience` steps without
gain; what is kept then is the best network seen.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import derive_seed, to_dict, write_whole
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
    """Grow a network as `config.grow` says and write everything to `out`; return the journal.

    The network to start from has `config.weights`, or is trained first. Each step tries one
    candidate a stage: the weights of the step before and a new module on top of the stage. The
    chosen one goes on. What is written:

    | path | holds |
    |---|---|
    | record.jsonl | `candidate` rows: stage, sizes, params, macs, accuracy, information (before |
    | | training: what the rule `information` goes by), trained_information, seconds; `step` |
    | | rows, 0 for the start: the network kept, and which stage each rule would have chosen |
    | models/STEP.safetensors | weights of each step's network, whose name its row has |
    | steps/ | finished and running candidates, until their step is over |
    | grown/ | the best network, in a folder as `run_train` writes it, after `config.train` |

    With `resume` nothing that is finished is done again. `workers` processes train candidates side
    by side: by default as many as there are stages, but no more than cores, and 1 on a GPU, which
    is this process; with more, a script of one's own needs `if __name__ == "__main__":`.
    Validation images choose, so the accuracy on them is optimistic; the test split is read once,
    at the end.

    Raises:
        ConfigError: the network declares no stages, or its modules cannot start as the identity
            as asked for, or settings do not go together.
        BudgetError: the bound cannot be read, or the network to start from exceeds it.
        RunFolderError: `out` holds another run, or this one and `resume` is off.
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
    journal = job.begin(out, resume=resume, command=command, watch=watch, workers=workers).journal
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
                watch.say(f"growing is over: {reason}")
    _finish(bench, journal, command)
    return journal


def best_step(steps: Sequence[Row], choose: str) -> Row:
    """Return the row of the best network, the first and so the smallest of equals."""
    return _first_best(steps, choose)


def why_stop(steps: Sequence[Row], config: GrowConfig, enough: float | None = None) -> str | None:
    """Return why growing stops after `steps`, the start first; None where it goes on.

    A step gains where it is better by more than `min_gain` than the last that gained.

    Example:
        >>> rows = [{"accuracy": a} for a in (0.90, 0.92, 0.92, 0.91)]
        >>> why_stop(rows, GrowConfig())
        'no step gained anything within patience=2'
    """
    if enough is not None and steps[-1]["accuracy"] >= enough:
        return f"a validation accuracy of {enough:.2%} is reached"
    if config.steps is not None and len(steps) > config.steps:
        return f"steps={config.steps} is reached"
    best, waited = float(steps[0][config.choose]), 0
    for row in steps[1:]:
        if row[config.choose] > best + config.min_gain:
            best, waited = row[config.choose], 0
        else:
            waited += 1
    patience = config.patience
    return f"no step gained anything within {patience=}" if waited >= patience else None


def _start_(base: nn.Module, bench: Bench, journal: Journal) -> None:
    """Train the network to start from, unless it came with weights, and journal it as step 0."""
    if journal.record.find("step", step=0) is not None:
        return
    config, sizes = bench.config, stage_sizes(base)
    if config.weights is None:
        seed = derive_seed(config.seed, "base")
        bench.train_(base, config.grow.base, journal, seed=seed, name=config.model)
    base.to(bench.job.device).eval()
    save_weights(base, weights_of(bench.out, 0))
    row = sizes_row(base, config.model, sizes, bench.job.example) | bench.measured(base)
    journal.record.append("step", step=0, stage=None, **row, **_kept(bench.out, 0))
    bench.watch.say(f"start: {_said(row)}")


def _candidates(bench: Bench, last: Row, limits: dict[str, float]) -> list[Candidate]:
    """Return the candidates of the next step that keep within the limits, in order of stages."""
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
    """Try what is not tried yet, keep the best, and journal it as a step."""
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
    weights = bench.out / "steps" / key / "model.safetensors"
    write_whole(weights_of(bench.out, step), weights.read_bytes())
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
    bench.watch.say(f"step {step} keeps {_said(row)}")
    for folder in (bench.out / "steps").glob(f"{step:03d}-*"):
        shutil.rmtree(folder)


def _try_all(candidates: Sequence[Candidate], crew: Crew, journal: Journal) -> None:
    """Try the candidates that the journal does not hold, and journal each when it is finished."""
    left = [
        candidate
        for candidate in candidates
        if (row := _find(journal, candidate)) is None
        or (candidate.trained and row["accuracy"] is None)
    ]
    for row in crew.try_all(left):
        journal.record.append("candidate", **row)
        crew.bench.watch.say(f"step {row['step']} tried {_said(row)}")


def _find(journal: Journal, candidate: Candidate) -> Row | None:
    return journal.record.find("candidate", step=candidate.step, stage=candidate.stage)


def _row(journal: Journal, candidate: Candidate) -> Row:
    row = _find(journal, candidate)
    assert row is not None
    return row


def _first_best(rows: Sequence[Row], key: str) -> Row:
    return max(rows, key=lambda row: float(row[key]))


def _kept(out: Path, step: int) -> Row:
    return {"weights": str(weights_of(out, step).relative_to(out))}


def _said(row: Row) -> str:
    told = [] if row["accuracy"] is None else [f"validation accuracy {row['accuracy']:.2%}"]
    return ", ".join([row["model"], *told, f"information {row['information']:.2%}"])


def _finish(bench: Bench, journal: Journal, command: str) -> None:
    """Write the best network as a run of its own, trained on where asked for, and journal it."""
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
