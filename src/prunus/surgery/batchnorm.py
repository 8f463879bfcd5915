"""BatchNorm statistics re-estimated on calibration images."""

from __future__ import annotations

import torch
from torch import nn

from prunus.batches import Loader, read
from prunus.core import ConfigError, DataError, keeping_random_state
from prunus.modules import BATCHNORMS, evaluating, rolling_back

__all__ = ["reestimate_batchnorm_"]


@keeping_random_state("norms")
def reestimate_batchnorm_(
    model: nn.Module,
    loader: Loader,
    batches: int | None = None,
    *,
    shrink: float = 0.0,
) -> int:
    """Set every BatchNorm's running mean and variance to the average over `loader`'s batches.

        μ = (1−λ)·μ_new + λ·μ_old,  σ² = (1−λ)·σ²_new + λ·σ²_old,  λ = `shrink`

    One forward pass in training mode of the norms alone (dropout stays off); returns how many
    norms were set. Norms without running statistics, and those that do not run, are left alone.
    Batches of one image are passed over: they have no variance where the map is 1×1.

    With λ = 0 it is also the repair x ← (x − μ_p)σ_d/(σ_p + ε) + μ_d, theory.md (68), which
    gives a norm's input x the mean μ_d and deviation σ_d that it had in the dense network: the
    norm takes off μ_d and divides by σ_d again, and what is left is (x − μ_p)/σ_p. There is
    nothing to add to it for layers with a BatchNorm.

    Raises:
        ConfigError: `shrink` is not within [0, 1].
        DataError: no batch had two images or more.

    All or nothing: whatever is raised, the network is as it was before the call.
    """
    if not 0 <= shrink <= 1:
        raise ConfigError(f"shrink is {shrink}, expected a share of the old statistics in [0, 1]")
    norms = [m for m in model.modules() if isinstance(m, BATCHNORMS) and m.track_running_stats]
    if not norms:
        return 0
    with rolling_back(model) as before:
        before.keep(model.buffers())
        return _reestimate_(model, norms, loader, batches, shrink)


def _reestimate_(
    model: nn.Module,
    norms: list[nn.modules.batchnorm._BatchNorm],
    loader: Loader,
    batches: int | None,
    shrink: float,
) -> int:
    momenta = [m.momentum for m in norms]
    kept = [{n: b.clone() for n, b in m.named_buffers()} for m in norms]
    used = 0
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over batches
        for i, batch in enumerate(read(loader, model)):
            if batches is not None and i >= batches:
                break
            if batch.size > 1:
                batch.inputs.run(model)
                used += 1
        if not used:
            raise DataError(
                "BatchNorm statistics need at least one batch of two images: give a larger loader "
                "or batch size"
            )
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    ran = 0
    for norm, buffers in zip(norms, kept, strict=True):
        if int(norm.get_buffer("num_batches_tracked")) == 0:  # an auxiliary head's
            norm.load_state_dict(buffers, strict=False)
            continue
        ran += 1
        for name in ("running_mean", "running_var"):
            norm.get_buffer(name).lerp_(buffers[name], shrink)
    return ran
