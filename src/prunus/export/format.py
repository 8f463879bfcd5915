"""What a format of exported networks is: how it is written, and the runtime that opens it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from prunus.core import Registry

__all__ = ["FORMATS", "INPUT", "OUTPUT", "Format", "quiet", "require_formats"]

#: Names of an artefact's one input and one output.
INPUT, OUTPUT = "images", "logits"

Runner = Callable[[Tensor], Tensor]


class Format(ABC):
    """One format of artefacts.

    Attributes:
        title: what people call it.
        runtime: what opens an artefact and computes with it.
        suffixes: the endings of its files. The first is the file that is opened; the others
            lie beside it under the same stem.
    """

    title: ClassVar[str]
    runtime: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def files(self, folder: Path, stem: str = "model") -> tuple[Path, ...]:
        """Return where the files of an artefact lie, the one that is opened first."""
        return tuple(folder / f"{stem}{suffix}" for suffix in self.suffixes)

    def require(self) -> None:  # noqa: B027 - most formats need no more than Prunus does
        """Raise `ConfigError` where this machine lacks what the format needs; say what."""

    @abstractmethod
    def write(self, network: nn.Module, example: Tensor, path: Path) -> None:
        """Write `network`, float32 in eval mode on the CPU, to `path` and what lies beside it.

        The batch axis is dynamic. `example` (2, *shape) gives the shape alone: its values are
        not kept in the artefact.
        """

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """Return what computes the output (B, …) for images (B, *shape), by the format's runtime.

        It computes in float32 on the CPU, whatever the runtime's own default is.
        """


FORMATS = Registry[Format]("export format")


def require_formats(names: Iterable[str]) -> None:
    """Raise where one of the formats named is not known, or cannot be written on this machine.

    Raises:
        UnknownNameError: there is no such format; lists the known ones.
        ConfigError: a package is missing; says how it is installed.
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
            warnings.catch_warnings(),
            contextlib.redirect_stdout(StringIO()),
            contextlib.redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
