"""The interface of an export format: how it is written, and the runtime that opens it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from prunus.core import Registry, importing
from prunus.export.exportable import Exportable

__all__ = [
    "FORMATS",
    "Format",
    "Runner",
    "dynamic_shapes",
    "one_or_all",
    "program_of",
    "quiet",
    "require_formats",
]

#: Runs an artefact on its input tensors; returns the output, or all of them in order.
Runner = Callable[..., Tensor | Sequence[Tensor]]


class Format(ABC):
    """One format of artefacts.

    Attributes:
        title: its display name.
        runtime: the runtime that opens and runs an artefact.
        runs_code: whether opening a file can run code that the file brings.
        suffixes: the suffixes of its files. The first is the file that is opened; the others
            are next to it with the same stem.
    """

    title: ClassVar[str]
    runtime: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    runs_code: ClassVar[bool] = False

    def files(self, folder: Path, stem: str = "model") -> tuple[Path, ...]:
        """Return the paths of an artefact's files, starting with the one that is opened."""
        return tuple(folder / f"{stem}{suffix}" for suffix in self.suffixes)

    def require(self) -> None:  # noqa: B027 - most formats need no more than Prunus does
        """Raise `ConfigError` if a requirement of the format is missing; names it."""

    def check(self, network: Exportable, example: tuple[Tensor, ...]) -> None:  # noqa: B027 - as above
        """Raise where `write` would fail at once; cheap."""

    @abstractmethod
    def write(self, network: Exportable, example: tuple[Tensor, ...], path: Path) -> None:
        """Write `network`, float32 in eval mode on the CPU, to `path` and its companion files.

        The axis of the batch is dynamic in every input that has one. `example`, two examples of
        each input, only defines shapes: its values are not stored in the artefact.
        """

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """Return a function from the input tensors to the outputs, in the format's runtime.

        It computes in float32 on the CPU, regardless of the runtime's default.
        """


FORMATS = Registry[Format]("export format")


def dynamic_shapes(network: Exportable) -> dict[str, tuple[dict[int, Any], ...]]:
    """Return for `torch.export` which axes of the inputs are dynamic: that of the batch."""
    batch = torch.export.Dim("batch")
    return {"tensors": tuple({0: batch} if batched else {} for batched in network.batched)}


def program_of(network: Exportable, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Return the network as `torch.export` reads it: what most formats start from.

    It does not hold the stack of calls that led to each node, which `torch.export` notes with the
    absolute paths of this machine and lines of the network's source.
    """
    with quiet():
        program = torch.export.export(network, example, dynamic_shapes=dynamic_shapes(network))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def one_or_all(outputs: list[Tensor]) -> Tensor | list[Tensor]:
    """Return the only output, or all of them in order."""
    return outputs[0] if len(outputs) == 1 else outputs


def require_formats(names: Iterable[str]) -> None:
    """Raise if one of the formats is unknown, or cannot be written on this machine.

    Raises:
        UnknownNameError: unknown format; lists the known ones.
        ConfigError: a package is missing; names the command to install it.
    """
    for name in names:
        FORMATS[name].require()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep an exporter's progress, log lines and deprecation notices off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            importing(),
            contextlib.redirect_stdout(StringIO()),
            contextlib.redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
