"""Imports inside a call, which leave the process as they find it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType

from prunus.core.seeding import keeping_random_state

__all__ = ["imported", "importing", "prepare_torch"]


@contextmanager
def importing() -> Iterator[None]:
    """Import within the block, and leave the process as it was.

    When they are imported, libraries add filters of warnings (SciPy, SymPy, Lightning), variables
    of the environment (threadpoolctl, PyTorch's compiler, Lightning), set the level of their
    loggers and draw from Python's random numbers (Rich). Where the caller has not imported them,
    but called a function of Prunus, that is not theirs to find. Loggers that did not exist before
    are left as the libraries made them.
    """
    environment, path = dict(os.environ), list(sys.path)
    made = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(each for each in made if isinstance(each, logging.Logger))]
    levels = [(lg, lg.level, lg.propagate, lg.disabled, list(lg.handlers)) for lg in loggers]
    numbers = keeping_random_state() if "torch" in sys.modules else nullcontext()
    try:
        with warnings.catch_warnings(), numbers:
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if sys.path != path:
            sys.path[:] = path
        for logger, level, propagate, disabled, handlers in levels:
            if logger.level != level:
                logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.handlers[:] = handlers


def imported(name: str) -> ModuleType:
    """Return a module, imported if it is not yet, with the process left as it was."""
    if name in sys.modules:
        return importlib.import_module(name)
    with importing():
        return importlib.import_module(name)


def prepare_torch() -> None:
    """Import what PyTorch imports by itself when a dispatch mode or an optimiser is first used."""
    imported("torch._dynamo")
