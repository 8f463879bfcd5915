"""Turn raw couplings into groups that can be cut exactly, or give a reason why not."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import nn

from prunus.graph.engine import Coupling
from prunus.graph.groups import Group, Index, Member
from prunus.graph.numbers import counts_heads
from prunus.modules import (
    PASSING,
    RawAxis,
    channel_count,
    is_depthwise,
    is_functional,
    is_mixing,
    module_at,
    place_of,
    quotas,
)

__all__ = ["NotFollowedError", "checked_group"]


class NotFollowedError(Exception):
    """A coupling that cannot be cut exactly; the message says why."""


def checked_group(
    wide: nn.Module, root: str, coupling: Coupling, obstacle: str, reasons: dict[str, str]
) -> Group:
    """Turn one coupling into a group, or give the reason why it cannot be cut exactly."""
    if obstacle:
        raise NotFollowedError(obstacle)
    units = len({u for _, u in coupling[root, "out"]})
    groups = 1
    members: list[Member] = []
    for (name, axis), pairs in coupling.items():
        module = module_at(wide, name)
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            continue  # one slope for all channels: nothing to cut
        if axis == "out" and name in reasons:
            raise NotFollowedError(
                reasons[name] if name == root else f"{name} is coupled to it, and {reasons[name]}"
            )
        if not (
            is_mixing(module) or is_depthwise(module) or isinstance(module, (*PASSING, RawAxis))
        ):
            raise NotFollowedError(f"{name} ({type(module).__name__}) cannot be cut")
        index = _index(name, pairs, units)
        width = channel_count(module, axis)
        if index.size and index.max() >= width:
            raise NotFollowedError(f"{name} has {width} channels, fewer than are coupled to it")
        if isinstance(module, nn.LayerNorm) and not (
            len(module.normalized_shape) == 1 and index.size == width
        ):
            raise NotFollowedError(f"{name} normalises over more or other axes than its channels")
        groups = np.lcm(groups, quotas(module))
        members.append(Member(name, "out" if axis == "out" else "in", index))
        if is_depthwise(module) and axis == "out":
            members.append(Member(name, "in", index))
    if units % groups:
        raise NotFollowedError(f"its {units} channels do not divide into {groups} groups")
    order: dict[str, float] = {n: i for i, n in enumerate(dict(wide.named_modules()))}
    last = len(order)  # parameters outside any rule come after the modules
    for member in members:
        if is_functional(module_at(wide, member.module)):  # right after the module that holds it
            path = member.module.removesuffix(".T").rpartition(".")[0]
            owner, key, _ = place_of(wide, member.module)
            keys = list(owner._parameters)
            order[member.module] = order[path] + (keys.index(key) + 1) / (len(keys) + 1)
    members.sort(key=lambda m: (order.get(m.module, last), m.axis))
    if groups > 1:
        members = [_by_quota(m, units, int(groups)) for m in members]
        for member in members:
            _check_spread(member, module_at(wide, member.module))
    made = [m for m in members if m.axis == "out" and is_mixing(module_at(wide, m.module))]
    whole = [m for m in made if m.index.size == channel_count(module_at(wide, m.module), "out")]
    whole = whole or made
    own = [m for m in whole if not is_functional(module_at(wide, m.module))]
    producer = (own or whole)[0]  # a layer of its own gives the name
    kind = "channels"
    if isinstance(module_at(wide, producer.module), nn.Linear):
        kind = "heads" if any(counts_heads(m.module) for m in members) else "neurons"
    units //= int(groups)
    least = min(2, units) if groups > 1 else 1
    return Group(producer.module, kind, units, tuple(members), least)  # type: ignore[arg-type]


def _by_quota(member: Member, units: int, groups: int) -> Member:
    """Couple unit j of all convolution groups, so that each group keeps equally many channels."""
    index = member.index.reshape(groups, units // groups, -1)
    return Member(member.module, member.axis, np.concatenate(list(index), axis=1))


def _check_spread(member: Member, module: nn.Module) -> None:
    """Raise unless every unit owns equally many channels of every group of a convolution."""
    groups = quotas(module)
    width = channel_count(module, member.axis)
    share = np.sort(member.index // (width // groups), axis=1)  # a unit's convolution groups
    even = np.repeat(np.arange(groups), member.index.shape[1] // groups)
    if groups > 1 and not (share.shape[1] == even.size and (share == even).all()):
        raise NotFollowedError(
            f"its units are not spread evenly over the {groups} groups of {member.module}"
        )


def _index(name: str, pairs: set[tuple[int, int]], units: int) -> Index:
    owned: dict[int, list[int]] = defaultdict(list)
    if len({channel for channel, _ in pairs}) != len(pairs):
        raise NotFollowedError(f"a channel of {name} belongs to two units at once")
    for channel, unit in sorted(pairs):
        owned[unit].append(channel)
    sizes = {len(channels) for channels in owned.values()}
    if len(owned) != units or len(sizes) != 1:
        raise NotFollowedError(f"its units own unequal shares of {name}")
    return np.array([owned[unit] for unit in sorted(owned)], dtype=np.int64)
