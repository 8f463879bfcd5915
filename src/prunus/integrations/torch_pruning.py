"""Torch-Pruning's importance protocol, in both directions.

An importance is called with a Torch-Pruning group, a list of (dependency, channels) whose first
entry is the root, and returns one number per channel of the root ([DepGraph];
`torch_pruning.importance.Importance`).

`TorchPruningCriterion` lets any importance score the groups of Prunus; `DiscriminantImportance`
lets any criterion of Prunus rank the groups of Torch-Pruning's pruners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.core import ConfigError
from prunus.criteria import (
    Criterion,
    GroupScore,
    NotScoredError,
    Scores,
    latent_utility,
    make_criterion,
    needs_of,
    score,
)
from prunus.graph import Group, Groups, Index, Member, find_groups
from prunus.modules import TRANSPOSED, RawAxis, SelectLinear, is_depthwise, module_at
from prunus.statistics import Statistics, collect, trace_utility

try:
    import torch_pruning as tp
except ImportError as error:
    raise ImportError(
        "prunus.integrations.torch_pruning needs Torch-Pruning: pip install 'prunus[torch-pruning]'"
    ) from error

__all__ = ["DiscriminantImportance", "TorchPruningCriterion", "torch_pruning_group"]

#: Added along the removal order, in units of the group's largest value, so that units with equal
#: values are cut in that order.
TIE = 1e-9


class TorchPruningCriterion:
    """Any Torch-Pruning importance as a criterion.

    It is called with the group that Torch-Pruning would make (`torch_pruning_group`), with the
    network's own modules, so anything it reads there (e.g. gradients from `loss.backward()`) must
    be present. A unit gets the mean over its channels, as in Torch-Pruning's grouped layers; if an
    importance is negative, all values of its group are shifted to start at 0.

    Example:
        >>> import torch_pruning as tp
        >>> rule = TorchPruningCriterion(tp.importance.MagnitudeImportance(p=1))
        >>> rule.unit
        "Torch-Pruning's MagnitudeImportance"
    """

    comparable = True  # Torch-Pruning's global pruning compares them between groups as they are
    needs_statistics = False

    def __init__(self, importance: Callable[[Any], Tensor | None]) -> None:
        """`importance` is an object of `tp.importance`, or any callable of that protocol."""
        self.importance = importance
        self.unit = f"Torch-Pruning's {type(importance).__name__}"

    def __call__(self, groups: Groups, group: Group, statistics: Statistics) -> GroupScore:
        """Score one group.

        Raises:
            NotScoredError: the importance returns None, which means "do not prune".
            ConfigError: it fails, or does not return one finite number per channel.
        """
        name = type(self.importance).__name__
        try:
            values = self.importance(torch_pruning_group(groups, group))
        except Exception as error:
            raise ConfigError(
                f"importance {name} failed on group {group.name!r} "
                f"({type(error).__name__}: {error}): an importance that reads gradients needs "
                "loss.backward() on the network first"
            ) from error
        if values is None:
            raise NotScoredError(f"importance {name} supports none of its layers")
        channels = _positions(_root(group))
        values = values.detach().cpu().double()
        if values.shape != (channels.size,) or not torch.isfinite(values).all():
            raise ConfigError(
                f"importance {name} returned a tensor of shape {tuple(values.shape)} for group "
                f"{group.name!r}, expected {channels.size} finite numbers, one per channel"
            )
        worth = values[torch.from_numpy(channels)].mean(1)
        return GroupScore.of(worth - worth.min().clamp(max=0))


class DiscriminantImportance:
    """Any criterion of Prunus as a Torch-Pruning importance.

    Traces the network, collects statistics and scores all groups at the first call, and again
    whenever a weight or a buffer of the network has changed: at each step of iterative pruning,
    and after retraining. Values keep the criterion's scale if it is comparable between groups, and
    are divided by their mean otherwise; ties are broken by the criterion's removal order. A group
    that Prunus does not cut gets None, so that it is not pruned, and its reason in `skipped`.

    Attributes:
        skipped: why a group was not pruned, by the name of its root module.

    Example:
        >>> from torch_pruning import pruner  # doctest: +SKIP
        >>> importance = DiscriminantImportance(model, loader, example)  # doctest: +SKIP
        >>> pruner.BasePruner(model, example, importance).step()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        example: Tensor | tuple[Any, ...],
        criterion: str | Criterion = "stacked",
        *,
        collecting: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Score `model`, the same object that is pruned, on the batches of `loader`.

        Args:
            loader: batches of the training data; read once each time the network has changed.
            example: one input batch, as for `find_groups`.
            criterion: a name of `CRITERIA`, or an object of the protocol.
            collecting: options of `collect` (`sampling`, `teacher`, …).
            options: of the criterion, when it is given by name.
        """
        self.model, self.loader, self.example = model, loader, example
        if isinstance(criterion, str):
            criterion = make_criterion(criterion, **options)
        elif options:
            raise ConfigError(
                f"options {sorted(options)} need a criterion given by name, found an object: pass "
                "them to its constructor"
            )
        self.criterion: Criterion = criterion
        self.collecting = {"blocks": 1, **(collecting or {})}
        if "gradients" in needs_of(criterion):
            self.collecting["gradients"] = True
        self.skipped: dict[str, str] = {}
        self._seen: dict[str, Tensor] = {}
        self._reasons: dict[str, str] = {}
        self._worth: dict[tuple[str, str], dict[int, float]] = {}

    def __call__(self, group: Any) -> Tensor | None:
        """Return the value of each root channel of a Torch-Pruning group, float64.

        Raises:
            ConfigError: the root is not a module of `model`.
        """
        self._refresh()
        dependency, channels = group[0]
        module = dependency.target.module
        name = next((n for n, m in self.model.named_modules() if m is module), None)
        if name is None:
            raise ConfigError(
                f"the pruner's {type(module).__name__} is not a module of this importance's "
                "network: pass the same network to both"
            )
        pruner = tp.function.PrunerBox[tp.ops.module2type(module)]
        axis = "out" if dependency.handler == pruner.prune_out_channels else "in"
        worth = self._worth.get((name, axis), {})
        if not all(channel in worth for channel in channels):
            self.skipped[name] = self._reasons.get(name, "Prunus has no group for it")
            return None
        return torch.tensor([worth[channel] for channel in channels], dtype=torch.float64)

    def _refresh(self) -> None:
        """Score again if the network has changed."""
        state = self.model.state_dict()
        if state.keys() == self._seen.keys() and all(
            torch.equal(tensor, self._seen[name]) for name, tensor in state.items()
        ):
            return
        groups = find_groups(self.model, self.example)
        groups = groups.without(_not_theirs(groups))
        if self.criterion.needs_statistics:
            statistics = collect(self.model, self.loader, groups, **self.collecting)
            if "traces" in needs_of(self.criterion):
                chosen = latent_utility(groups, statistics).otsu()
                traces = trace_utility(self.model, self.loader, groups, chosen)
                statistics = statistics.with_traces(traces)
        else:
            statistics = Statistics([{}], groups, 0)
        scores = score(groups, statistics, self.criterion)
        worth: dict[tuple[str, str], dict[int, float]] = {}
        for group in groups.values():
            if group.name in scores.groups:
                _note(worth, group, _strictly_rising(scores, group.name))
        seen = {name: tensor.detach().clone() for name, tensor in state.items()}
        self._reasons = {u.module: u.reason for u in groups.unprunable} | scores.skipped
        self.skipped, self._worth, self._seen = {}, worth, seen  # once all of it is known


def _note(worth: dict[tuple[str, str], dict[int, float]], group: Group, values: Tensor) -> None:
    """Note the value of each channel of a group's members."""
    for member in group.members:
        place = worth.setdefault((member.module, member.axis), {})
        for channels, value in zip(member.index.tolist(), values.tolist(), strict=True):
            place.update(dict.fromkeys(channels, value))


def _not_theirs(groups: Groups) -> dict[str, str]:
    """Return the groups that Torch-Pruning cannot cut, with the reason."""
    return {
        group.name: f"Torch-Pruning cannot cut {member.module}, a grouped transposed convolution"
        for group in groups.values()
        for member in group.members
        if isinstance(module := module_at(groups.model, member.module), TRANSPOSED)
        if module.groups > 1
    }


def torch_pruning_group(groups: Groups, group: Group) -> tp.Group:
    """Return a group as Torch-Pruning makes it: every layer, its channels, their root channels.

    The root is the module that the group is named after, with all of its channels; for input and
    feature units, which have no producer, it is their consumer. Entries contain the network's own
    modules for importances to read: they are not linked to a graph and do not prune.
    """
    root = _root(group)
    positions = _positions(root)
    made = tp.Group()
    members = [root, *(m for m in group.members if m is not root)]
    for member in members:
        module = module_at(groups.model, member.module)
        if isinstance(module, RawAxis):
            continue  # Torch-Pruning's importances read modules
        if member.axis != "out" and is_depthwise(module):
            continue  # Torch-Pruning's depthwise entry is one for both axes
        each = member.index.shape[1]
        owner = positions[:, np.arange(each) * positions.shape[1] // each].ravel()
        channels = member.index.ravel()
        if isinstance(module, SelectLinear) and member.axis != "out":
            columns = np.full(module.incoming, -1)
            columns[module.index.cpu().numpy()] = np.arange(len(module.index))
            channels = columns[channels]
        order = np.argsort(channels, kind="stable")
        order = order[channels[order] >= 0]
        pruner = tp.function.PrunerBox[tp.ops.module2type(module)]
        handler = pruner.prune_out_channels if member.axis == "out" else pruner.prune_in_channels
        node = tp.dependency.Node(module, None, member.module)
        made.add_dep(tp.Dependency(handler, handler, node, node), channels[order].tolist())
        made[len(made) - 1].root_idxs = owner[order].tolist()
    return made


def _root(group: Group) -> Member:
    return next((m for m in group.producers if m.module == group.name), group.members[0])


def _positions(root: Member) -> Index:
    """Return the position of each unit's channels among the root's, in order: (units, k)."""
    places = np.empty(root.index.size, dtype=np.int64)
    places[np.argsort(root.index.ravel(), kind="stable")] = np.arange(root.index.size)
    return places.reshape(root.index.shape)


def _strictly_rising(scores: Scores, name: str) -> Tensor:
    """Return a group's values, strictly increasing along its order."""
    found = scores[name]
    values = found.values
    if not scores.comparable:
        values = values / values.mean().clamp(min=1e-300)
    step = TIE * (float(values.max()) or 1.0) / len(values)
    rank = torch.empty_like(values)
    rank[found.order] = torch.arange(len(values), dtype=values.dtype)
    return values + step * rank
