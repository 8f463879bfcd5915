"""The main job: model, data and budget in; a run folder out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunus.core import seed_everything, write_whole
from prunus.core.errors import ConfigError, ExportError
from prunus.data import DataSplits
from prunus.export import require_formats, save_weights
from prunus.models import build_model
from prunus.pipelines.audit import fingerprints
from prunus.pipelines.config import RunConfig
from prunus.pipelines.export import export_all, exported
from prunus.pipelines.folder import open_folder
from prunus.pipelines.journal import Journal
from prunus.pipelines.latency import keep_table, table_for
from prunus.pipelines.load import load
from prunus.pipelines.measure import layer_rows, result_row
from prunus.pipelines.ps_iteration import ps_iteration
from prunus.pipelines.rows import say_latency
from prunus.pipelines.s_phase import find_sound_groups
from prunus.pipelines.session import Loaders, Session, p_phase_
from prunus.pipelines.settings import checked
from prunus.pipelines.surroundings import (
    describe_run,
    open_data,
    open_fabric,
    require_labels,
    require_one_process,
    resolve_paths,
)
from prunus.pipelines.timing import timing_row
from prunus.pipelines.watch import Watch
from prunus.plan import Budget, check_reachable
from prunus.reports import write_report

__all__ = ["run_prune"]


def run_prune(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
) -> Journal:
    """Prune as `config` says and write everything to `out`; return the journal.

    Steps: train the dense network or load `config.weights` → PS-iteration → final training →
    one reading of the test split → artefacts with their parity checks → both networks on the
    clock → report. Each is journalled; with `resume` finished steps are taken from the folder.
    Everything that can be wrong with the input is looked at before the first step.

    Raises:
        ConfigError: settings do not go together, there is no budget, or this is one of several
            ranks.
        RunFolderError: `out` holds another run, or this one and `resume` is off.
    """
    require_one_process()
    watch = watch or Watch()
    config = resolve_paths(config)
    if config.budget is None:
        raise ConfigError("no budget came: say what is kept at most, as in --budget macs=50%")
    budget = Budget.parse(config.budget)
    checked(dataclasses.replace(config.prune, keep_class=()))
    require_formats(config.export)
    fabric = open_fabric(config.device, config.precision)
    data = open_data(config)
    require_labels(data, "prune")
    config = dataclasses.replace(
        config,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        prune=checked(config.prune, data.class_names),
    )
    seed_everything(config.seed, "build")
    dense = build_model(
        config.model,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        weights=Path(config.weights) if config.weights else None,
    )
    example = torch.zeros(1, *data.input_shape)
    groups = find_sound_groups(dense, example, config.prune)
    table = table_for(
        budget, dense, groups, example, config.prune, folder=out if resume else None, watch=watch
    )
    check_reachable(
        groups, budget, least=config.prune.least, round_to=config.prune.round_to or 1, table=table
    )
    journal = open_folder(config, out, resume=resume)
    journal.append_once("run", describe_run(command, fabric, config.seed))

    session = Session(
        loaders=Loaders(train=data.train, calibration=data.calibration, validation=data.validation),
        fabric=fabric,
        seed=config.seed,
        journal=journal,
        watch=watch,
        table=table,
        channels_last=config.channels_last,
    )
    keep_table(table, groups, journal)
    dense = _dense_(dense, config, session)
    if not (out / "model.safetensors").exists():
        dense = dense.to(fabric.device)
        model, plan = ps_iteration(dense, budget, config.prune, session, example=example)
        write_whole(out / "plan.json", plan.to_json())
        save_weights(model, out / "model.safetensors")
    _finish(dense, data, config, session)
    return journal


def _dense_(dense: nn.Module, config: RunConfig, session: Session) -> nn.Module:
    """Return the trained dense network: from the journal, from the weights given, or trained."""
    assert session.journal.folder is not None
    path = session.journal.folder / "dense.safetensors"
    if path.exists():
        dense.load_state_dict(load_file(path))
        return dense
    if config.weights is None:
        p_phase_(dense, config.train, session, phase="dense", parents=config.prune.parents)
    save_weights(dense, path)
    return dense


def _finish(dense: nn.Module, data: DataSplits, config: RunConfig, session: Session) -> None:
    """Measure, export and report what the folder holds."""
    journal, watch = session.journal, session.watch
    assert journal.folder is not None
    out = journal.folder
    journal.append_once("files", {"sha256": fingerprints(out)})
    pruned = load(out)
    images = next(iter(data.calibration))[0][:64]
    if journal.record.find("result") is None:
        watch.say("measuring both networks on the test split")
        found = result_row(
            dense,
            pruned,
            example=images,
            validation=data.validation,
            test=data.test,
            table=session.table,
        )
        journal.record.append("result", **found)
    journal.append_once("layers", {"layers": layer_rows(dense.cpu(), pruned, images[:1])})
    formats = [name for name in config.export if not exported(journal.record, name)]
    done = export_all(pruned, images, out, formats, journal.record, watch)
    if failed := [each.error for each in done if each.parity is None]:
        raise ExportError("; ".join(failed))
    _time(dense, pruned, images, config, session)
    journal.clean(keep_networks=config.prune.keep_networks)
    write_report(out)


def _time(
    dense: nn.Module, pruned: nn.Module, images: Tensor, config: RunConfig, session: Session
) -> None:
    """Time both networks in PyTorch and in each runtime asked for, unless that is journalled."""
    journal, watch, table = session.journal, session.watch, session.table
    assert journal.folder is not None
    path = journal.folder / "model.onnx"
    for runtime in dict.fromkeys(("eager", *config.prune.runtimes)):
        onnx = path if runtime == "onnxruntime" else None
        unwritten = onnx is not None and not onnx.exists()
        if unwritten or journal.record.find("timing", runtime=runtime) is not None:
            continue
        watch.say(f"timing both networks: {runtime}")
        row = timing_row(runtime, dense, pruned, images, table=table, onnx=onnx)
        journal.record.append("timing", runtime=runtime, **row)
        if runtime == "eager" and table is not None:
            result = journal.record.find("result")
            assert result is not None
            watch.say(say_latency(result, row, table.batch))
