"""Train a network by name on data by name; a run folder out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.core import seed_everything, write_whole
from prunus.data import DataSplits
from prunus.evaluation import count_bytes, count_macs, count_params, measure
from prunus.export import save_weights
from prunus.models import build_model, load_weights_
from prunus.pipelines.audit import fingerprints
from prunus.pipelines.config import RunConfig
from prunus.pipelines.folder import open_folder
from prunus.pipelines.journal import Journal
from prunus.pipelines.session import Loaders, Session, p_phase_
from prunus.pipelines.surroundings import (
    describe_run,
    open_data,
    open_fabric,
    require_one_process,
    resolve_paths,
)
from prunus.pipelines.watch import Watch
from prunus.plan import Plan
from prunus.surgery import replay_

__all__ = ["run_train"]


def run_train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
    data: DataSplits | None = None,
    plan: Plan | None = None,
    pruned_weights: Path | None = None,
    teacher: nn.Module | None = None,
) -> Journal:
    """Train as `config.train` says and write everything to `out`; return the journal.

    The weights start random, or from `config.weights`. With `plan` it is the network which that
    leaves of the model, with the `pruned_weights` if they are given. `teacher` is distilled from as
    `config.train.distill` says. The last epoch's weights are kept; the test split is read once,
    after it. The folder is that of a run with this plan, or an empty one: `prunus.load`, `score`,
    `export` and `prune --config … --weights …` take it. `data` are those of the configuration
    where they are loaded already, and nothing was drawn from them yet.

    Raises:
        RunFolderError: `out` holds another run, or this one and `resume` is off.
        UnknownNameError, ConfigError, DataError, WeightsError, NonFiniteError: see their messages.
    """
    require_one_process()
    watch = watch or Watch()
    config = dataclasses.replace(resolve_paths(config), budget=None)
    fabric = open_fabric(config.device, config.precision)
    data = data or open_data(config)
    classes = data.num_classes or None
    config = dataclasses.replace(config, num_classes=classes, input_shape=data.input_shape)
    seed_everything(config.seed, "build")
    model = build_model(
        config.model,
        num_classes=classes,
        input_shape=data.input_shape,
        weights=Path(config.weights) if config.weights else None,
    )
    if plan is not None:
        replay_(model, plan)
    if pruned_weights is not None:
        load_weights_(model, pruned_weights)
    journal = open_folder(config, out, resume=resume)
    journal.append_once("run", describe_run(command, fabric, config.seed))
    session = Session(
        loaders=Loaders(train=data.train, calibration=data.calibration, validation=data.validation),
        fabric=fabric,
        seed=config.seed,
        journal=journal,
        watch=watch,
        channels_last=config.channels_last,
    )
    if (out / "model.safetensors").exists():
        load_weights_(model, out / "model.safetensors")
    else:
        parents = config.prune.parents or ((data.parents,) if data.parents else ())
        p_phase_(model, config.train, session, phase="train", teacher=teacher, parents=parents)
        write_whole(out / "plan.json", (plan or Plan()).to_json())
        save_weights(model, out / "model.safetensors")
    journal.append_once("files", {"sha256": fingerprints(out)})
    if journal.record.find("trained") is None:
        watch.say("measuring on the test split")
        model = model.to(fabric.device).eval()
        tested: Any = data.test.dataset
        row = {
            "params": count_params(model),
            "macs": count_macs(model, torch.zeros(1, *data.input_shape, device=fabric.device)),
            "bytes": count_bytes(model),
            **{f"validation_{k}": v for k, v in measure(model, data.validation).items()},
            **{f"test_{k}": v for k, v in measure(model, data.test).items()},
            "test_images": len(tested),
        }
        journal.record.append("trained", **row)
    journal.clean()
    return journal
