"""Checks of the settings before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prunus.core import ConfigError, derive_seed
from prunus.criteria import Criterion, make_criterion, needs_of
from prunus.runs import PruneConfig
from prunus.statistics import Sampling

__all__ = ["checked", "criterion_of"]


def checked(config: PruneConfig, class_names: Sequence[str] | None = None) -> PruneConfig:
    """Return the settings with `keep_class` as indices, after checking that they are compatible.

    Without `class_names` (the user's own network and loader) classes are given by index, and their
    number is checked later.

    Raises:
        UnknownNameError, ConfigError: a criterion, option, sampling or class does not exist, or
            `parents` do not fit the classes.
    """
    needs = needs_of(criterion_of(config, seed=0, iteration=0))
    Sampling.parse(config.sampling)
    if "parents" in needs and not config.parents:
        raise ConfigError(
            f"criterion {config.criterion!r} needs the coarser class of each class: pass "
            "--set prune.parents=[[0,0,1,…]], one number per class"
        )
    for parent in config.parents if class_names else ():
        if len(parent) != len(class_names or ()):
            raise ConfigError(
                f"parents are {list(parent)}, expected the coarser class of each of the "
                f"{len(class_names or ())} classes"
            )
    kept = {_index(label, class_names) for label in config.keep_class}
    return replace(config, keep_class=tuple(sorted(kept)))


def criterion_of(config: PruneConfig, *, seed: int, iteration: int) -> Criterion:
    """Return the criterion that `config` names; `random` draws new scores in each iteration."""
    options: dict[str, Any] = dict(config.options)
    if config.criterion == "random":
        options.setdefault("seed", derive_seed(seed, "random", iteration))
    return make_criterion(config.criterion, **options)


def _index(label: int | str, names: Sequence[str] | None) -> int:
    """Return the index of a class, given by name or index; a name takes precedence."""
    if isinstance(label, str) and label in (names or ()):
        return list(names or ()).index(label)
    known = f"an index or one of {', '.join(names)}" if names else "an index, e.g. 3"
    try:
        index = int(label)
    except ValueError:
        raise ConfigError(f"keep_class: unknown class {label!r}, expected {known}") from None
    if index < 0 or (names and index >= len(names)):
        raise ConfigError(f"keep_class: unknown class {label!r}, expected {known}")
    return index
