"""Branches of a concatenation that may be removed as a whole, and what is removed with them.

A group whose channels reach every consumer together with channels of other groups can lose all its
units: the consumer still reads the others. The module that made them is then dead, and so is
everything that only dead modules read: the 1×1 before a 3×3 is removed with the 3×3. Source: [Tian,
section 3.3.4], where Inception modules are left with 1×1 filters alone; which groups qualify is our
interpretation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from math import prod

from torch import nn

from prunus.graph.groups import Group, Groups
from prunus.modules import CONVOLUTIONS, Empty, can_be_empty, is_mixing, module_at

__all__ = ["Branches", "collapsed_modules", "let_branches_go"]


def let_branches_go(groups: Groups) -> Groups:
    """Return the groups, with `least` 0 if a branch may go and `falls` if it may become dead.

    A group can become dead if one plain convolution makes it, and only norms that treat each
    channel independently pass it on: no sum, gate, depthwise convolution or attention is coupled to
    it. It may go as a whole if, in addition, every consumer also reads channels of other groups.
    """
    marked = []
    for group in groups.values():
        if not _is_plain(groups, group):
            marked.append(group)
            continue
        partial = [m.index.size < groups.layers[m.module].in_ for m in group.consumers]
        least = 0 if partial and all(partial) else group.least
        marked.append(replace(group, least=least, falls=True))
    return replace(groups, entries=tuple(marked))


def _is_plain(groups: Groups, group: Group) -> bool:
    modules = [(m, module_at(groups.model, m.module)) for m in group.producers]
    makers = [m.module for m, module in modules if is_mixing(module)]
    return (
        group.least == 1
        and len(makers) == 1
        and not groups.unfit(makers[0], outputs=True)
        and all(can_be_empty(module) and m.index.shape[1] == 1 for m, module in modules)
        and all(
            m.index.size == groups.layers[m.module].out
            for m, module in modules
            if is_mixing(module)
        )
        and all(m.axis == "in" and m.module in groups.layers for m in group.consumers)
    )


class Branches:
    """Producers and consumers of a network's groups: what becomes dead when some are removed."""

    def __init__(self, groups: Groups) -> None:
        """Take groups that `let_branches_go` has marked; unmarked groups never become dead."""
        self.falls = {group.name for group in groups.values() if group.falls}
        self.maker: dict[str, str] = {}
        self.consumers: dict[str, set[str]] = {}
        self.reads: dict[str, list[str]] = defaultdict(list)
        for group in groups.values():
            self.consumers[group.name] = {m.module for m in group.consumers}
            for name in self.consumers[group.name]:
                self.reads[name].append(group.name)
            if group.falls:
                made = (m.module for m in group.producers if groups.layers[m.module].mixing)
                self.maker[group.name] = next(made)

    def fallen(self, first: Iterable[str], gone: Collection[str] = ()) -> set[str]:
        """Return the groups `first`, and all that only dead modules read once these are removed.

        Args:
            gone: groups that are removed already.
        """
        found = set(first)
        dead = {self.maker[name] for name in (*gone, *found) if name in self.maker}
        waiting = sorted(found)
        while waiting:
            maker = self.maker.get(waiting.pop(), "")
            for name in self.reads.get(maker, ()):
                unread = name in self.falls and self.consumers[name] <= dead
                if unread and name not in found and name not in gone:
                    found.add(name)
                    dead.add(self.maker[name])
                    waiting.append(name)
        return found


def collapsed_modules(model: nn.Module) -> list[str]:
    """Return the modules of a cut network that have only 1×1 filters left, in its order.

    Some of their convolutions were removed, at least one of them with more than one tap, and all
    that are left have one tap. Of nested modules the innermost are named.
    """
    found: list[str] = []
    for name, container in model.named_modules():
        inside = list(container.modules())
        taps = [prod(m.kernel_size) for m in inside if isinstance(m, CONVOLUTIONS)]
        died = [prod(m.former[0].kernel_size) for m in inside if isinstance(m, Empty)]  # type: ignore[arg-type]
        if name and taps and died and max(taps) == 1 < max(died):
            found.append(name)
    return [n for n in found if not any(other.startswith(f"{n}.") for other in found)]
