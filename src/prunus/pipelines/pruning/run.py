"""The main job: model, data and budget in; a run folder out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from prunus.batches import Inputs
from prunus.core import ConfigError, ExportError, write_whole
from prunus.evaluation import layer_rows
from prunus.export import require_formats, save_weights
from prunus.graph import Groups
from prunus.models import load_weights_
from prunus.modules import private_copy
from prunus.pipelines.export import export_all, exported
from prunus.pipelines.pruning.checks import checked
from prunus.pipelines.pruning.groups import find_sound_groups, require_reachable
from prunus.pipelines.pruning.late import attempt
from prunus.pipelines.pruning.latency import keep_table, table_for
from prunus.pipelines.pruning.measure import result_row, validation_accuracies
from prunus.pipelines.pruning.ps_iteration import ps_iteration
from prunus.pipelines.pruning.rows import say_latency
from prunus.pipelines.pruning.timing import timing_row
from prunus.pipelines.pruning.trial import try_exports, try_phases
from prunus.plan import Budget
from prunus.reports import failed_measures, write_report
from prunus.runs import (
    Job,
    Journal,
    Loaders,
    RunConfig,
    Session,
    Watch,
    load,
    open_job,
    p_phase_,
)

__all__ = ["run_prune"]


def run_prune(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
) -> Journal:
    """Prune as specified by `config`, write everything to `out` and return the journal.

    Steps: train the dense network or load `config.weights` → PS-iteration → final training →
    one pass over the test split → artefacts with their parity checks → timing of both networks →
    report. Each is journalled; with `resume` finished steps are read from the folder. All input is
    validated before the first step.

    Raises:
        ConfigError: settings are incompatible, no budget is given, or this is one of several
            ranks.
        RunFolderError: `out` contains another run, or this run and `resume` is off.
    """
    if config.budget is None:
        raise ConfigError("no budget given: pass what may be kept, e.g. --budget macs=50%")
    budget = Budget.parse(config.budget)
    checked(replace(config.prune, keep_class=()))
    require_formats(config.export)
    watch = watch or Watch()
    job = open_job(config, "prune")
    prune = checked(job.config.prune, job.data.class_names)
    job = job.with_config(replace(job.config, prune=prune))
    example, kept = job.example, out if resume else None
    groups = find_sound_groups(job.network, example, prune)
    table = table_for(budget, job.network, groups, example, prune, folder=kept, watch=watch)
    require_reachable(groups, budget, prune, table=table)
    if not (resume and (out / "record.jsonl").exists()):  # an earlier start has tried them
        _try(job, groups, watch)
    with job.begin(out, resume=resume, command=command, watch=watch, table=table) as session:
        keep_table(table, groups, session.journal)
        dense = _dense_(job, session)
        if not (out / "model.safetensors").exists():
            dense = dense.to(job.device)
            model, plan = ps_iteration(
                dense, budget, prune, session, example=example, groups=groups
            )
            write_whole(out / "plan.json", plan.to_json())
            save_weights(model, out / "model.safetensors")
        _finish(dense, job, session)
    return session.journal


def _try(job: Job[RunConfig], groups: Groups, watch: Watch) -> None:
    """Try every phase on two small batches, before the first expensive step."""
    prune = job.config.prune
    on_device = private_copy(job.network).to(job.device)
    dense = () if job.config.weights is not None else (job.config.train,)
    try_phases(
        replace(groups, model=on_device),
        Loaders.of(job.data),
        prune,
        trainings=(*dense, prune.finetune, prune.final),
        test=job.data.test,
        fabric=job.fabric,
    )
    try_exports(job.network, job.example, job.config.export, watch)


def _dense_(job: Job[RunConfig], session: Session) -> nn.Module:
    """Return the trained dense network: from the folder, from the given weights, or trained."""
    assert session.journal.folder is not None
    dense, config = job.network, job.config
    path = session.journal.folder / "dense.safetensors"
    if path.exists():
        load_weights_(dense, path)
    else:
        if config.weights is None:
            p_phase_(dense, config.train, session, phase="dense", parents=config.prune.parents)
        save_weights(dense, path)
    session.journal.seal(path.name)
    return dense


def _finish(dense: nn.Module, job: Job[RunConfig], session: Session) -> None:
    """Measure, export and report the networks in the folder."""
    journal, watch, config, data = session.journal, session.watch, job.config, job.data
    assert journal.folder is not None
    out = journal.folder
    journal.seal("plan.json", "model.safetensors")
    pruned = load(out, trust=True)  # the call named its source file
    images = next(iter(data.calibration))[0][:64]
    if journal.record.find("result") is None:
        watch.say("measuring both networks on the test split")
        measure = partial(
            result_row,
            dense,
            pruned,
            example=Inputs.of(images),
            validation=validation_accuracies(journal.record.rows),
            test=data.test,
            table=session.table,
        )
        if (result := attempt(journal.record, "result", measure)) is not None:
            journal.record.append("result", **result)
    if journal.record.find("layers") is None:
        compare = partial(layer_rows, dense.cpu(), pruned, images[:1])
        if (layers := attempt(journal.record, "layers", compare)) is not None:
            journal.append_once("layers", {"layers": layers})
    write_report(out)
    formats = [name for name in config.export if not exported(journal, name)]
    done = export_all(pruned, images, out, formats, journal, watch)
    _time(dense, pruned, images, config, session)
    journal.clean(keep_networks=config.prune.keep_networks)
    write_report(out)
    failed = [each.error for each in done if each.parity is None]
    failed += [f"{row['key']}: {row['reason']}" for row in failed_measures(journal.record.rows)]
    if failed:
        raise ExportError(
            f"{'; '.join(failed)}; everything else is in {out}, and --resume tries only that again"
        )


def _time(
    dense: nn.Module, pruned: nn.Module, images: Tensor, config: RunConfig, session: Session
) -> None:
    """Time both networks in PyTorch and in each configured runtime, unless already journalled."""
    journal, watch, table = session.journal, session.watch, session.table
    assert journal.folder is not None
    path = journal.folder / "model.onnx"
    for runtime in dict.fromkeys(("eager", *config.prune.runtimes)):
        onnx = path if runtime == "onnxruntime" else None
        unwritten = onnx is not None and not onnx.exists()
        if unwritten or journal.record.find("timing", runtime=runtime) is not None:
            continue
        watch.say(f"timing both networks: {runtime}")
        timed = partial(timing_row, runtime, dense, pruned, images, table=table, onnx=onnx)
        row = attempt(journal.record, f"timing {runtime}", timed)
        if row is None:
            continue
        journal.record.append("timing", runtime=runtime, **row)
        result = journal.record.find("result")
        if runtime == "eager" and table is not None and result is not None:
            watch.say(say_latency(result, row, table.batch))
