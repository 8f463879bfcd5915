"""Does a cut compute what it should? Masked against cut, on the network itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from prunus.batches import Example, Inputs, flatten_tensors
from prunus.core import NonFiniteError, derive_seed, keeping_random_state
from prunus.graph import Group, Groups
from prunus.modules import private_copy, without_checkpoints
from prunus.plan import CostTracker, plan_units
from prunus.surgery.cut import replay_
from prunus.surgery.mask import masked_
from prunus.surgery.source_line import source_line

__all__ = ["sound_branches", "unsound_groups"]

#: Largest difference between masked and cut, relative to the largest output.
TOLERANCE = 1e-4

#: The reason where the network answers differently from one pass to the next.
RANDOM = "its output is random in evaluation, so that a cut cannot be compared"


@keeping_random_state("trial")
def unsound_groups(groups: Groups, example: Example) -> dict[str, str]:
    """Return the groups whose cut would not equal their mask, each with the reason.

    Some units of every group are cut from one copy and masked in another; the outputs on
    `example` must agree. Where they do not, the groups are tried one by one, and, if those that
    pass fail together, one after the other. It finds what tracing cannot: a size written into
    the forward pass, a count of channels. Norms over channels are masked as norms over those
    that stay. Where the network itself answers differently from one pass to the next (dropout that
    is always on), nothing can be compared, and that is the reason. Cost: two forward passes, and
    two or four per group where something is wrong.

    Args:
        example: one input batch, as for `find_groups`.

    Example:
        >>> import torch
        >>> from torch import Tensor, nn
        >>> import prunus
        >>> from prunus.graph import find_groups  # which tries nothing
        >>> class Fixed(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        ...
        ...     def forward(self, x):
        ...         return self.b(self.a(x).view(-1, 6))
        >>> groups = find_groups(Fixed(), torch.zeros(1, 4), inputs=False)
        >>> list(prunus.unsound_groups(groups, torch.zeros(1, 4)))
        ['a']
    """
    inputs = Inputs.of(example).like(groups.model)
    tried = [g for g in groups.values() if g.units > max(g.least, 1)]
    if not tried or _cuts_alike(groups, tried, inputs) is None:
        return {}
    _check_finite(groups.model, inputs)
    if _is_random(groups.model, inputs):
        return dict.fromkeys((g.name for g in tried), RANDOM)
    alone = {g.name: _cuts_alike(groups, [g], inputs) for g in tried}
    found = {name: reason for name, reason in alone.items() if reason is not None}
    left = [g for g in tried if g.name not in found]
    if found and _cuts_alike(groups, left, inputs) is None:
        return found
    kept: list[Group] = []
    for group in left:
        reason = _cuts_alike(groups, [*kept, group], inputs)
        if reason is None:
            kept.append(group)
        else:
            found[group.name] = f"{reason}, together with other groups"
    return found


@keeping_random_state("branches")
def sound_branches(groups: Groups, example: Example) -> Groups:
    """Return the groups; a branch may go as a whole only if the network runs without it.

    As many branches as can be removed together are cut from a copy and masked in another, in
    running order and backwards, so that each is removed at least once. Where the outputs on
    `example` differ, or an operation takes no tensor without channels (pooling), each is tried by
    itself, and where those that pass fail together, none may be removed. Cost: four forward
    passes, and two per branch where something is wrong.
    """

    def go(branches: list[Group]) -> bool:
        """Return whether branches can be removed together, with something left to be read."""
        tracker = CostTracker(groups)
        for group in branches:
            tracker.drop(tracker.falling(group))
        gone = {n: range(len(left)) for n, left in tracker.left.items() if not left.any()}
        return _agrees(groups, gone, inputs) is None

    def all_go(branches: list[Group]) -> bool:
        return not branches or (go(branches) and go(branches[::-1]))

    inputs = Inputs.of(example).like(groups.model)
    free = [group for group in groups.values() if group.least == 0]
    if all_go(free):
        return groups
    sound = [group for group in free if go([group])]
    may = {group.name for group in sound} if all_go(sound) else set()
    entries = (
        replace(g, least=1) if g.least == 0 and g.name not in may else g for g in groups.values()
    )
    return replace(groups, entries=tuple(entries))


def _some(group: Group) -> list[int]:
    """Return units to try: not as many of every group, or fixed sizes could fit by accident."""
    rng = np.random.default_rng(derive_seed(0, "trial", group.name))
    most = min(group.units // 2, group.units - max(group.least, 1))
    count = int(rng.integers(1, max(2, most + 1)))
    return sorted(int(u) for u in rng.choice(group.units, count, replace=False))


def _cuts_alike(groups: Groups, tried: list[Group], example: Inputs) -> str | None:
    """Return None where some units of groups can be cut, else what happened."""
    return _agrees(groups, {g.name: _some(g) for g in tried}, example)


def _agrees(groups: Groups, removed: Mapping[str, Iterable[int]], example: Inputs) -> str | None:
    """Return None where cut equals masked, else what happened."""
    plan = plan_units(groups, removed)
    masked = masked_(private_copy(groups.model), plan).eval()
    with torch.no_grad(), without_checkpoints():
        torch.manual_seed(0)  # noise that does not depend on a width is the same in both
        try:
            expected = flatten_tensors(example(masked))
        except Exception as error:  # networks' code can raise anything
            return f"it cannot be masked to compare: {_first_line(error)}"
        del masked  # one copy at a time
        cut = replay_(private_copy(groups.model), plan).eval()
        torch.manual_seed(0)
        try:
            found = flatten_tensors(example(cut))
        except Exception as error:
            where = source_line(error, groups.model)
            return (
                f"the network fails when it is cut{where and f' (at {where})'}: "
                f"{_first_line(error)}"
            )
    if len(expected) != len(found):
        return "cutting it changes how many outputs the network has"
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return "cutting it changes the shape of the network's output"
        if not _alike(one, other):
            return "an operation mixes or counts its channels, so cutting it changes the others"
    return None


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two outputs agree to `TOLERANCE` of the largest."""
    if not (one.is_floating_point() or one.is_complex()):
        return bool((one == other).all())
    if not one.numel():
        return True
    scale = max(1e-6, float(one.abs().max()))
    return bool(float((one - other).abs().max()) <= TOLERANCE * scale)


def _check_finite(model: nn.Module, example: Inputs) -> None:
    """Raise `NonFiniteError` where a network answers an example with NaN or infinity."""
    with torch.no_grad():
        found = flatten_tensors(example(private_copy(model).eval()))
    if not all(bool(t.isfinite().all()) for t in found):
        given = all(bool(t.isfinite().all()) for t in example.tensors)
        cause = "check its weights and divisions" if given else "the example holds them too"
        raise NonFiniteError(
            f"{type(model).__name__} produced NaN or infinite outputs for the example, so a cut "
            f"cannot be compared: {cause}"
        )


def _is_random(model: nn.Module, example: Inputs) -> bool:
    """Return whether two passes of a network give different outputs."""
    network = private_copy(model).eval()
    with torch.no_grad(), without_checkpoints():
        torch.manual_seed(0)
        one = flatten_tensors(example(network))
        torch.manual_seed(1)
        other = flatten_tensors(example(network))
    return len(one) != len(other) or not all(
        a.shape == b.shape and _alike(a, b) for a, b in zip(one, other, strict=True)
    )
