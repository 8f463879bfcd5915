"""Push: train with the Deep LDA objectives, and measure what that did to the last hidden layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.core import seed_everything
from prunus.criteria import latent_utility
from prunus.data import DataSplits
from prunus.graph import head_groups
from prunus.models import build_model
from prunus.pipelines.config import LatentConfig, RunConfig
from prunus.pipelines.journal import Journal
from prunus.pipelines.load import load
from prunus.pipelines.surroundings import open_data, open_fabric, require_labels, resolve_paths
from prunus.pipelines.traces import choose_dimensions
from prunus.pipelines.train import run_train
from prunus.pipelines.watch import Watch
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
    """Train as `run_train` does with `config.train.push`, by default `PushConfig()`; return it all.

    Seed 002 (Tian's thesis), section 4.1.1. The journal then has rows `latent`: of the network
    `before`, where it came with weights, and `after`. Each holds the utilities v_j and the
    discriminants on the training images, the discriminants on validation (`held_out`), and the
    accuracy that the best dimensions alone keep there.

    Raises:
        ConfigError: the data have no classes, or the network no single head.
        See `run_train` for the rest.
    """
    watch = watch or Watch()
    push = config.train.push or PushConfig()
    config = resolve_paths(
        dataclasses.replace(config, train=dataclasses.replace(config.train, push=push))
    )
    data = open_data(config)
    require_labels(data, "push")
    journal = run_train(config, out, resume=resume, command=command, watch=watch, data=data)
    for network in ("before", "after"):
        if journal.record.find("latent", network=network) is not None:
            continue
        if network == "after":
            model = load(out)
        elif config.weights is not None:
            seed_everything(config.seed, "build")
            model = build_model(
                config.model,
                num_classes=data.num_classes,
                input_shape=data.input_shape,
                weights=Path(config.weights),
            )
        else:
            continue
        watch.say(f"looking at the last hidden layer {network} the push")
        model = model.to(open_fabric(config.device).device).eval()
        journal.record.append("latent", network=network, **_latent_row(model, data))
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
