"""Push: train with the Deep LDA objectives, and measure the effect on the last hidden layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.criteria import latent_utility
from prunus.data import DataSplits
from prunus.graph import head_groups
from prunus.modules import private_copy
from prunus.pipelines.latent import choose_dimensions
from prunus.pipelines.train import train_job
from prunus.runs import (
    Journal,
    LatentConfig,
    RunConfig,
    Watch,
    open_job,
)
from prunus.statistics import collect
from prunus.training import PushConfig

__all__ = ["run_push"]


def run_push(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    watch: Watch | None = None,
) -> Journal:
    """Train like `run_train` with `config.train.push`, by default `PushConfig()`.

    [Tian, section 4.1.1]. The journal then has rows `latent`: of the network
    `before`, if weights are given, and `after`. Each has the utilities v_j and the discriminants
    on the training images, the discriminants on validation (`held_out`), and the validation
    accuracy with only the best dimensions.

    Raises:
        ConfigError: the data have no class labels, or the network has no single head.
        See `run_train` for the rest.
    """
    push = config.train.push or PushConfig()
    train = dataclasses.replace(config.train, push=push)
    job = open_job(dataclasses.replace(config, train=train, budget=None), "push")
    before = None if config.weights is None else private_copy(job.network)
    session = job.begin(out, resume=resume, command=command, watch=watch)
    journal = train_job(job, session)
    for name, model in (("before", before), ("after", job.network)):
        if model is None or journal.record.find("latent", network=name) is not None:
            continue
        session.watch.say(f"measuring the last hidden layer {name} the push")
        row = _latent_row(model.to(job.device).eval(), job.data)
        journal.record.append("latent", network=name, **row)
    return journal


def _latent_row(model: nn.Module, data: DataSplits) -> dict[str, Any]:
    device = next(model.parameters()).device
    groups = head_groups(model, torch.zeros(1, *data.input_shape, device=device))
    train, held_out = (
        latent_utility(groups, collect(model, loader, groups, blocks=1))
        for loader in (data.calibration, data.validation)
    )
    _, row = choose_dimensions(model, groups, train, LatentConfig(), data.validation)
    return {**row, "held_out": held_out.eigenvalues.tolist()}
