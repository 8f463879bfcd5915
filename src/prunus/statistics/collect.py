"""One pass over the calibration images: `collect`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunus.batches import Loader, OutputChoice, choose_output, read, rereadable
from prunus.core import ConfigError, DataError, keeping_random_state
from prunus.graph import Groups
from prunus.modules import evaluating, keeping_computed, private_copy, unwrapped
from prunus.statistics.all_reduce import all_reduce_
from prunus.statistics.loader import class_weights, count_classes, counted_rows, taken
from prunus.statistics.ranks import gathered, rank_and_size, require_one_model, together
from prunus.statistics.request import Request
from prunus.statistics.sampling import Sampling
from prunus.statistics.statistics import Statistics
from prunus.statistics.sweep import Sweep
from prunus.statistics.teacher import Teacher, make_teacher

__all__ = ["collect"]


@torch.inference_mode(False)
@keeping_random_state("collect")
def collect(
    model: nn.Module,
    loader: Loader,
    groups: Groups,
    teacher: Teacher | int | str | None = None,
    *,
    parents: Sequence[Sequence[int]] = (),
    sampling: str = "pixel",
    blocks: int = 8,
    balance: bool = False,
    gradients: bool = False,
    ranges: bool = False,
    batches: int | None = None,
    feature_limit: int = 4096,
    progress: Any = None,
    all_reduce: bool = True,
    output: OutputChoice | None = None,
) -> Statistics:
    """Sum up the input of every consumer over `loader`: one pass, nothing kept per image.

    A consumer that runs several times for an image is summed over all its calls.

    Args:
        loader: batches (images, labels or targets) of the training data, in any form that
            `read` knows; images alone do for `teacher="logits"`.
        teacher: the number of classes (by default the width of the network's output), `targets`
            for continuous vectors or maps, `logits` for the network's own output.
        parents: the coarser class of each class, one sequence per granularity; or labels of shape
            (B, G), the finest first.
        sampling: `patch`, `pixel`, `pool:G`, `flatten`, `flatten:G` or `dual` (see `Sampling`).
        blocks: K, how many parts the images are kept in, for intervals. Memory: 8·K·F² bytes
            per consumer.
        balance: weigh each image by N/(L·N_l), so that classes count alike; reads the labels
            once before the pass. Merging balanced statistics is exact where classes have the
            same frequencies. Gradients and ranges are not weighed.
        gradients: also sum the second moment of the loss's gradient in each consumer's output
            and first-order Taylor terms; a backward pass to the activations.
        ranges: also note the range of each consumer's output.
        batches: stop after so many batches.
        feature_limit: wider patches are sampled by pixel.
        progress: wraps the loader's iteration (a progress bar).
        all_reduce: where `torch.distributed` runs several processes, add up what all of them
            collect (`all_reduce_`), each on its own share of the images: every rank must call
            `collect` then, with the same weights, and gets the same numbers bit for bit.
        output: which output of several is the main one: its name or index, or a function.

    Each batch is summed in the activations' precision, batches add up in float64.
    Cost: N·P·F² multiply-adds per consumer, P samples per image. By pixel P = H·W and F = C, 1 ÷
    (taps·C_out/C) of its forward pass; patches (F = k²·C) are taken at as many random positions
    as give 10 000 samples and 16 per feature.

    Raises:
        NonFiniteError: an activation is NaN or infinite; names the first module that makes one.
        DataError: there is no batch, or labels do not fit the network, or maps have several sizes
            where they are flattened.
        ConfigError: the Gram matrices would not fit into memory (says what would), or settings
            that cannot be combined; or the ranks hold different weights or buffers.
        PrunusError: another rank failed; all ranks stop.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import prunus
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = prunus.find_groups(net, torch.zeros(1, 4))
        >>> loader = [(torch.randn(32, 4), torch.arange(32) % 2)]
        >>> statistics = prunus.collect(net, loader, groups, blocks=4)
        >>> statistics["2"].gram.shape, statistics["2"].samples
        (torch.Size([8, 8]), 32.0)
    """
    model = private_copy(unwrapped(model))  # its own hooks may write into it
    how = Sampling.parse(sampling)
    if blocks < 1:
        raise ConfigError(f"blocks is {blocks}, expected at least 1")
    if balance and how.kind == "dual":
        raise ConfigError("sampling='dual' sums whole batches: pass balance=False")
    rank, ranks = rank_and_size() if all_reduce else (0, 1)
    if ranks > 1:
        require_one_model(model)
    weights = None
    if balance:
        loader = rereadable(loader)
        counted = functools.partial(count_classes, read(loader, model, batches=batches))
        weights = class_weights(gathered(together(counted)) if ranks > 1 else [counted()])

    here = taken(loader, batches)
    lengths = gathered(here) if ranks > 1 else [here]
    known = [n for n in lengths if n is not None]
    everywhere = sum(known) if len(known) == ranks else None

    request = Request(
        model=model,
        groups=groups,
        sampling=how,
        blocks=blocks,
        feature_limit=feature_limit,
        gradients=gradients,
        ranges=ranges,
        rank=rank,
        ranks=ranks,
        batches=here,
        everywhere=everywhere,
    )

    def run() -> Statistics:
        sweep = None
        for batch in read(loader, model, progress, batches):
            if sweep is None:  # the first images show how wide the network's output is
                first = batch.inputs.first(2)
                made = make_teacher(
                    teacher,
                    model,
                    first,
                    parents,
                    labels=batch.labels,
                    heads=groups.heads,
                    seed=rank,
                )
                sweep = Sweep(request, made)
            batch = counted_rows(batch)  # noqa: PLW2901 - what does not count is left out
            if batch.size:
                sweep.batch(batch, weights)
        if sweep is None or not sweep.images:
            raise DataError(
                "the calibration loader gave no batch: give it at least one image per class"
            )
        return sweep.finish()

    with evaluating(model), keeping_computed(model), choose_output(output):
        return run() if ranks == 1 else all_reduce_(together(run))
