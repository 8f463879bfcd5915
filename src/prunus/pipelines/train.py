"""Train a network by name on data by name; a run folder out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prunus.core import keeping_random_state, write_whole
from prunus.data import DataSplits
from prunus.evaluation import count_bytes, count_params, measure
from prunus.export import save_weights
from prunus.graph import count_macs
from prunus.models import load_weights_
from prunus.modules import private_copy
from prunus.plan import Plan
from prunus.runs import (
    Job,
    Journal,
    Loader,
    Loaders,
    RunConfig,
    Session,
    Watch,
    default_training,
    last_epoch,
    open_fabric,
    open_job,
    p_phase_,
    require_one_process,
)
from prunus.surgery import replay_
from prunus.training import TrainConfig

__all__ = ["run_train", "train", "train_job"]


def train(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig | None = None,
    *,
    validation: Loader | None = None,
    teacher: nn.Module | None = None,
    parents: Sequence[Sequence[int]] = (),
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    channels_last: bool = False,
    watch: Watch | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a copy of a network; return it and one row per epoch, of its losses and accuracies.

    The loss is that of `fit_`, which does the same to the network itself.

    Args:
        model: any `nn.Module`; it is left untouched.
        loader: batches of images (B, C, H, W) and their labels int64 (B,), or target images.
        config: the settings, by default those of `prunus train`.
        validation: held-out images, measured after every epoch; by default those of `loader`.
        teacher: a network that `config.distill` distils from.
        parents: the coarser class of each class, one sequence per granularity, for `config.local`.

    Raises:
        ConfigError: a setting does not fit the network or the data, or the device is not
            available.
        DataError, NonFiniteError: see `fit_`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> images = torch.randn(32, 4)
        >>> loader = [(images, (images[:, 0] > 0).long())]
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> trained, rows = train(net, loader, TrainConfig(epochs=20, lr=0.05), device="cpu")
        >>> rows[-1]["loss"] < rows[0]["loss"]
        True
    """
    require_one_process()
    session = Session(
        loaders=Loaders(
            train=loader,
            calibration=loader,
            validation=validation if validation is not None else loader,
        ),
        fabric=open_fabric(device, precision),
        seed=seed,
        journal=Journal(),
        watch=watch or Watch(),
        channels_last=channels_last,
    )
    trained = private_copy(model)
    config = config or default_training()
    with keeping_random_state("train", seed=seed):
        p_phase_(trained, config, session, phase="train", teacher=teacher, parents=parents)
    fit = session.journal.record.find("fit", phase="train")
    assert fit is not None
    return trained.cpu().eval(), fit["epochs"]


def run_train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
    plan: Plan | None = None,
    pruned_weights: Path | None = None,
    teacher: nn.Module | None = None,
) -> Journal:
    """Train as specified by `config.train`, write everything to `out` and return the journal.

    The weights start random, or from `config.weights`. With `plan` the network is the model pruned
    by it, with the `pruned_weights` if they are given. `teacher` is used for distillation with the
    weight `config.train.distill`. The last epoch's weights are kept; the test split is read once,
    after it. The folder is that of a run with this plan, or with an empty one: `prunus.load`,
    `score`, `export` and `prune --config … --weights …` accept it.

    Raises:
        RunFolderError: `out` contains another run, or this run and `resume` is off.
        UnknownNameError, ConfigError, DataError, WeightsError, NonFiniteError: see their messages.
    """
    job = open_job(dataclasses.replace(config, budget=None), "train")
    if plan is not None:
        replay_(job.network, plan)
    if pruned_weights is not None:
        load_weights_(job.network, pruned_weights)
    with job.begin(out, resume=resume, command=command, watch=watch) as session:
        return train_job(job, session, plan=plan, teacher=teacher)


def train_job(
    job: Job[RunConfig],
    session: Session,
    *,
    plan: Plan | None = None,
    teacher: nn.Module | None = None,
) -> Journal:
    """Train the network of an open job in place, measure it and finish its folder."""
    config, data, model, journal = job.config, job.data, job.network, session.journal
    assert journal.folder is not None
    out = journal.folder
    if (out / "model.safetensors").exists():
        load_weights_(model, out / "model.safetensors")
    else:
        parents = config.prune.parents or ((data.parents,) if data.parents else ())
        p_phase_(model, config.train, session, phase="train", teacher=teacher, parents=parents)
        write_whole(out / "plan.json", (plan or Plan()).to_json())
        save_weights(model, out / "model.safetensors")
    journal.seal("plan.json", "model.safetensors")
    if journal.record.find("trained") is None:
        session.watch.say("measuring on the test split")
        model = model.to(job.device).eval()
        tested: Any = data.test.dataset
        row = {
            "params": count_params(model),
            "macs": count_macs(model, job.example.to(job.device)),
            "bytes": count_bytes(model),
            **_validation(journal, model, data),
            **{f"test_{k}": v for k, v in measure(model, data.test).items()},
            "test_images": len(tested),
        }
        journal.record.append("trained", **row)
    journal.clean()
    return journal


def _validation(journal: Journal, model: nn.Module, data: DataSplits) -> dict[str, float]:
    """Return the quality on validation: the last epoch's, or measured if there was no epoch."""
    if last := last_epoch(journal, "train"):
        return {key: value for key, value in last.items() if key.startswith("validation_")}
    return {f"validation_{key}": value for key, value in measure(model, data.validation).items()}
