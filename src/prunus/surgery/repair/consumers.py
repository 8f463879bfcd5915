"""Which modules patch repair refits, in running order, and to how many samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prunus.batches import Inputs
from prunus.core import memory_limit
from prunus.graph import Groups
from prunus.modules import TRANSPOSED, input_columns, is_mixing, module_at, reparametrised
from prunus.plan import Plan
from prunus.statistics import kernel_taps
from prunus.surgery.repair.closed_form import Repair
from prunus.surgery.repair.forward_pass import PassRecorder, norms_of

__all__ = ["RefittedConsumer", "Use", "behind_shared", "find_refitted"]

#: Samples that a consumer is fitted to: at least so many, and so many per feature.
LEAST_SAMPLES, SAMPLES_A_FEATURE = 40_000, 16

#: Images taken: at least so many, more for a wide linear layer, which sees one sample per image;
#: never more than fit into so many bytes, at so many maps of the largest size at a time, or into
#: half of what the process may use, whichever is less.
LEAST_IMAGES, MEMORY, LIVE_MAPS = 2_048, 4 * 10**9, 6


@dataclass(frozen=True)
class Use:
    """What follows one call of a consumer.

    `norm` is the BatchNorm behind it, `summed` whether a sum follows, `rectified` whether a
    ReLU alone reads the result.
    """

    norm: str | None
    summed: bool
    rectified: bool


@dataclass(frozen=True)
class RefittedConsumer:
    """A module to refit, which may run several times in a pass.

    `uses` has one entry per call, `kept` says which of the dense module's outputs are left,
    `samples` how many it is fitted to at each call, and `maker` what is fitted with it.
    """

    name: str
    uses: tuple[Use, ...]
    kept: list[int] | None
    samples: int
    maker: str | None


def behind_shared(consumers: dict[str, RefittedConsumer]) -> dict[str, RefittedConsumer]:
    """Return the consumers that run once, behind the first that runs several times."""
    order = list(consumers.values())
    first = next((i for i, consumer in enumerate(order) if len(consumer.uses) > 1), len(order))
    return {consumer.name: consumer for consumer in order[first:] if len(consumer.uses) == 1}


def find_refitted(
    dense: nn.Module, groups: Groups, plan: Plan, one: Inputs, joint: bool
) -> tuple[dict[str, RefittedConsumer], list[Repair], int]:
    """Return the modules to refit in running order, those that cannot be, and images to take."""
    recorder = PassRecorder(
        dense, [n for n in groups.layers if is_mixing(module_at(dense, n))], groups
    )
    with recorder:
        one(dense)
    consumers: dict[str, RefittedConsumer] = {}
    repairs: list[Repair] = []
    rows, norms = LEAST_IMAGES, norms_of(groups)
    pairs = {
        consumer: maker
        for consumer, maker in recorder.sole_pairs().items()
        if joint and "out" in plan.modules.get(maker, {}) and _plain(dense, consumer, maker)
        if not groups.unfit(maker, outputs=True)
    }
    for name, calls in recorder.calls.items():
        module = module_at(dense, name)
        if not consumers and not {"in", "select"} & set(plan.modules.get(name, ())):
            continue  # nothing is cut before it
        if plan.empties(name):
            continue
        reason = "it computes its weight from others" if reparametrised(module) else ""
        if reason := reason or groups.unfit(name, outputs=True):
            repairs.append(Repair(name, None, reason))
        elif isinstance(module, TRANSPOSED):
            repairs.append(Repair(name, None, "a transposed convolution reads no patches"))
        else:
            cut = plan.modules.get(name, {}).get("out")
            need = SAMPLES_A_FEATURE * input_columns(module).shape[0] * kernel_taps(module)
            each = [(name, call) for call in range(calls)]
            consumers[name] = RefittedConsumer(
                name,
                tuple(
                    Use(norms.get(c), c in recorder.summed, c in recorder.rectified) for c in each
                ),
                None if cut is None else cut.kept(),
                -(-max(LEAST_SAMPLES, need) // calls),
                pairs.get(name),
            )
            if isinstance(module, nn.Linear):
                rows = max(rows, SAMPLES_A_FEATURE * module.in_features)
    room = min(MEMORY, memory_limit() // 2)
    return consumers, repairs, max(1, min(rows, room // (LIVE_MAPS * recorder.largest)))


def _plain(dense: nn.Module, *names: str) -> bool:
    """Return whether modules are convolutions whose patches can be taken, without groups."""
    modules = [module_at(dense, name) for name in names]
    return all(kernel_taps(m) and getattr(m, "groups", 0) == 1 for m in modules) and not any(
        isinstance(m, TRANSPOSED) for m in modules
    )
