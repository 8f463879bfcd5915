"""Checks before the first step of growing."""

from __future__ import annotations

import dataclasses

from torch import nn

from prunus.core import BudgetError, ConfigError, usable_cores
from prunus.models import grow_, stage_sizes
from prunus.modules import private_copy
from prunus.pipelines.grow.candidate import Bench, sizes_row
from prunus.pipelines.grow.config import GrowRunConfig
from prunus.plan import Budget

__all__ = ["bounds", "build_base", "completed", "count_workers"]


def build_base(bench: Bench) -> nn.Module:
    """Return the initial network, untrained or with its weights, after checking that it grows."""
    config = bench.config
    if config.grow.choose == "information" and config.grow.preserve:
        raise ConfigError(
            "choose='information' measures candidates before they are trained, and with preserve "
            "they all compute the same as the previous network: choose by accuracy, or grow "
            "without preserve"
        )
    base = bench.job.network
    tried = private_copy(base)
    for stage in range(len(stage_sizes(tried))):
        grow_(tried, stage, preserve=config.grow.preserve)
    return base


def bounds(bench: Bench, base: nn.Module) -> tuple[dict[str, float], float | None]:
    """Return the upper bounds of a network's costs, and the accuracy at which to stop."""
    text = bench.config.grow.budget
    if text is None:
        return {}, None
    budget = Budget.parse(text)
    if any(limit.relative or limit.currency == "ms" for limit in budget.limits):
        raise BudgetError(
            f"budget {text!r} cannot bound a growing network: give params, macs or bytes as "
            "numbers, e.g. params=1M, macs=50M (percentages and milliseconds are for pruning)"
        )
    costs = sizes_row(base, bench.config.model, stage_sizes(base), bench.job.example)
    limits = budget.absolute(costs)
    for currency, limit in limits.items():
        if costs[currency] > limit:
            raise BudgetError(
                f"{bench.config.model} has {costs[currency]} {currency} before growing, but the "
                f"budget {text!r} allows {limit:.0f}: give a higher bound, or a smaller network"
            )
    return limits, budget.accuracy


def count_workers(bench: Bench, workers: int | None, stages: int) -> int:
    """Return the number of worker processes: one per stage, at most the number of cores."""
    if workers is not None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}, expected at least 1")
        return workers
    return 1 if bench.job.device.type != "cpu" else min(stages, usable_cores())


def completed(bench: Bench, workers: int) -> GrowRunConfig:
    """Fill in the machine's number of threads, so that config.yaml repeats the run."""
    config = bench.config
    threads = config.grow.threads or max(1, usable_cores() // workers)
    return dataclasses.replace(config, grow=dataclasses.replace(config.grow, threads=threads))
