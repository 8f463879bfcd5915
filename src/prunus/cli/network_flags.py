"""The flags of commands that inspect a trained network, given by run or by name: declared once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.options import (
    BatchSize,
    DataName,
    DataRoot,
    Device,
    Download,
    InputShape,
    ModelName,
    Seed,
    Trust,
    Weights,
)
from prunus.cli.run_flags import Flag, make_command
from prunus.cli.settings import put_flags
from prunus.core import ConfigError

__all__ = ["NetworkFlags", "network_command", "require_network"]

_FIRST: tuple[Flag, ...] = (
    (
        "run",
        Annotated[
            Path | None,
            typer.Argument(help="Folder of a finished run: its network and data."),
        ],
        None,
    ),
    ("model", ModelName, None),
    ("data", DataName, None),
    ("weights", Weights, None),
)
_LAST: tuple[Flag, ...] = (
    ("data_root", DataRoot, None),
    ("input_shape", InputShape, None),
    ("batch_size", BatchSize, None),
    ("seed", Seed, None),
    ("device", Device, None),
    ("trust", Trust, False),
    ("download", Download, False),
)


@dataclass(frozen=True)
class NetworkFlags:
    """The parsed flags that select network and data; `given` holds those that are settings."""

    run: Path | None
    trust: bool
    given: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command line, for the journal."""
        return "prunus " + shlex.join(sys.argv[1:])

    def settings(
        self, own: Mapping[str, Any], *, of_run: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the settings: those of the run (all, or the ones in `of_run`), then the flags.

        Args:
            own: flags of the command itself, by the path of the setting; None if not given.
            of_run: the settings of the run that the command has.

        Raises:
            ConfigError: both a run and another network are given.
            RunFolderError: the run is missing or has not finished.
        """
        values: dict[str, Any] = {}
        if self.run is not None:
            for key in ("model", "weights"):
                if (other := self.given[key]) is not None:
                    raise ConfigError(
                        f"both --{key} {other} and the run {self.run} are given: give only one"
                    )
            from prunus.pipelines import settings_of_run  # noqa: PLC0415 - torch takes seconds

            found = settings_of_run(self.run)
            values = {key: found[key] for key in of_run or found}
        put_flags(values, {**self.given, **own})
        return values


def require_network(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the settings name no network or no data."""
    for key in ("model", "data"):
        if key not in values:
            raise ConfigError(f"no {key} given: pass --{key}, or the folder of a finished run")


def network_command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn `verb(flags: NetworkFlags, …own flags…)` into a command that has all flags."""

    def read(given: dict[str, Any]) -> NetworkFlags:
        return NetworkFlags(run=given.pop("run"), trust=given.pop("trust"), given=given)

    return make_command(function, _FIRST, _LAST, read)
