"""Execute a plan on a network: compensate, cut, re-estimate, and say what was done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.core.errors import ConfigError, DataError
from prunus.graph.layers import BATCHNORMS
from prunus.plan import Plan
from prunus.statistics import Statistics
from prunus.surgery.compensate import Repair, compensate_
from prunus.surgery.cut import check_plan, replay_

__all__ = ["COMPENSATIONS", "Receipt", "apply_", "reestimate_batchnorm_"]

COMPENSATIONS = ("none", "pointwise")


@dataclass(frozen=True)
class Receipt:
    """What a plan changed.

    Attributes:
        params: parameters before and after.
        channels: module → axis → (channels before, after).
        repairs: what compensation did, a consumer.
        batchnorms: how many BatchNorm layers were re-estimated.
    """

    params: tuple[int, int]
    channels: dict[str, dict[str, tuple[int, int]]]
    repairs: tuple[Repair, ...]
    batchnorms: int


def apply_(
    model: nn.Module,
    plan: Plan,
    statistics: Statistics | None = None,
    *,
    loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    compensate: str = "pointwise",
    ridge: float = 1e-3,
) -> Receipt:
    """Cut `model` in place as `plan` says, and return the receipt.

    With `statistics`, consumers are compensated first (`compensate`:
    `pointwise` or `none`); with `loader`, the running statistics of every BatchNorm are
    estimated anew afterwards. Gradients are not needed; frozen parameters are cut and stay frozen.

    Raises:
        PlanError: the plan does not fit the network; nothing has been changed then.
    """
    if compensate not in COMPENSATIONS:
        raise ConfigError(f"compensate {compensate!r}: expected one of {', '.join(COMPENSATIONS)}")
    check_plan(model, plan)
    before = sum(p.numel() for p in model.parameters())
    repairs: list[Repair] = []
    if compensate != "none" and statistics is not None:
        repairs = compensate_(model, plan, statistics, ridge)
    replay_(model, plan)
    norms = reestimate_batchnorm_(model, loader) if loader is not None else 0
    channels = {
        name: {axis: (e.of, e.of - len(e.removed)) for axis, e in axes.items()}
        for name, axes in plan.modules.items()
    }
    after = sum(p.numel() for p in model.parameters())
    return Receipt((before, after), channels, tuple(repairs), norms)


def reestimate_batchnorm_(
    model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], batches: int | None = None
) -> int:
    """Set every BatchNorm's running mean and variance to the average over `loader`'s batches.

    One forward pass in training mode of the norms alone (dropout stays off); returns how many
    norms were set. Norms without running statistics are left alone. Batches of one image are
    passed over: they have no variance where the map is 1×1.

    Raises:
        DataError: no batch of two images or more came; the old statistics are kept.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCHNORMS) and m.track_running_stats]
    if not norms:
        return 0
    modes = {m: m.training for m in model.modules()}
    momenta = [m.momentum for m in norms]
    kept = [{n: b.clone() for n, b in m.named_buffers()} for m in norms]
    used = 0
    device = next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
    try:
        with torch.no_grad():
            for i, (x, _) in enumerate(loader):
                if batches is not None and i >= batches:
                    break
                if len(x) > 1:
                    model(x.to(device))
                    used += 1
        if not used:
            raise DataError(
                "BatchNorm statistics need at least one batch of two images: give a larger loader "
                "or batch size"
            )
    except BaseException:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)
