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
from prunus.pipelines.train import train, train_job
from prunus.runs import (
    Journal,
    LatentConfig,
    Loader,
    RunConfig,
    Watch,
    default_training,
    open_job,
)
from prunus.statistics import collect
from prunus.training import PushConfig, TrainConfig

__all__ = ["push", "run_push"]


def push(
    model: nn.Module,
    loader: Loader,
    config: PushConfig | None = None,
    *,
    training: TrainConfig | None = None,
    validation: Loader | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    channels_last: bool = False,
    watch: Watch | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a copy with the Deep LDA push; return it and one row per epoch.

    The push gathers what separates the classes into few neurons of the last hidden layer: its
    terms are ℓ_lda + λ·ℓ_cov + β·ℓ_align [Tian, eq. 4.6 to 4.9], in addition to the loss of
    `train`.

    Args:
        model: any classifier with one head; it is left untouched.
        loader: batches of images (B, C, H, W) and labels int64 (B,), each of several classes with
            8 images or more; a `DataLoader` is read in class-balanced batches.
        config: the terms and their weights.
        training: the other settings, by default those of `prunus push`.
        validation: held-out images, measured after every epoch; by default those of `loader`.

    Raises:
        ConfigError: the network has no single head, or the batches are too small.
        DataError, NonFiniteError: see `fit_`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> images = torch.randn(32, 4)
        >>> loader = [(images, (images[:, 0] > 0).long())]
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> pushed, rows = push(net, loader, training=TrainConfig(epochs=2), device="cpu")
        >>> "push_loss" in rows[-1]
        True
    """
    settings = dataclasses.replace(training or default_training(), push=config or PushConfig())
    return train(
        model,
        loader,
        settings,
        validation=validation,
        seed=seed,
        device=device,
        precision=precision,
        channels_last=channels_last,
        watch=watch,
    )


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
    training = dataclasses.replace(config.train, push=config.train.push or PushConfig())
    job = open_job(dataclasses.replace(config, train=training, budget=None), "push")
    before = None if config.weights is None else private_copy(job.network)
    with job.begin(out, resume=resume, command=command, watch=watch) as session:
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
    seen, held_out = (
        latent_utility(groups, collect(model, loader, groups, blocks=1))
        for loader in (data.calibration, data.validation)
    )
    _, row = choose_dimensions(model, groups, seen, LatentConfig(), data.validation)
    return {**row, "held_out": held_out.eigenvalues.tolist()}
