"""Where in a network's own source something failed: `source_line`."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from torch import nn

__all__ = ["source_line"]

#: Packages whose lines are not part of the network.
FOREIGN = ("torch", "builtins")


def source_line(error: BaseException, model: nn.Module) -> str:
    """Return `net.py:14`, the innermost line of `model`'s own files that `error` came through.

    Its own files define its class, or a class of its submodules or their bases, outside PyTorch.
    A file of a package comes with the package (`timm/layers/mlp.py:14`) and without the folder
    it is installed in, so that the same network gives the same text on every machine.

    Returns an empty string where no such line is known.
    """
    files = _own_files(model)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        shown = files.get(Path(frame.filename).resolve())
        if shown is not None and frame.lineno is not None:
            return f"{shown}:{frame.lineno}"
    return ""


def _own_files(model: nn.Module) -> dict[Path, str]:
    """Return the files that define the network's classes, each with the name to show."""
    found: dict[Path, str] = {}
    for name in {cls.__module__ for m in model.modules() for cls in type(m).__mro__}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or name.partition(".")[0] in FOREIGN:
            continue
        packages = name.split(".")[:-1]
        found[Path(file).resolve()] = "/".join([*packages, Path(file).name])
    return found
