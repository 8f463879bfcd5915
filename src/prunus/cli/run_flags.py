"""The flags of every command that creates a run folder: declared once, parsed once."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunus.cli.options import (
    Augment,
    BatchSize,
    ChannelsLast,
    DataName,
    DataRoot,
    Device,
    Download,
    InputShape,
    ModelName,
    Precision,
    Resume,
    Seed,
    Settings,
    Trust,
)
from prunus.cli.settings import base_settings, parse_shape, put_flags, put_settings
from prunus.core import ConfigError, permitting_downloads

__all__ = ["Flag", "RunFlags", "make_command", "run_command"]

#: Name, type, default.
Flag = tuple[str, Any, Any]

#: Flags before and after those of the command itself, in the order of `--help`.
_FIRST: tuple[Flag, ...] = (
    (
        "out",
        Annotated[Path, typer.Option(help="Run folder; created if missing.")],
        inspect.Parameter.empty,
    ),
    ("model", ModelName, None),
    ("data", DataName, None),
    (
        "config",
        Annotated[
            Path | None,
            typer.Option(help="Recipe to start from, e.g. configs/*.yaml; flags override it."),
        ],
        None,
    ),
    (
        "weights",
        Annotated[Path | None, typer.Option(help="Weights to start from (.safetensors, .pt).")],
        None,
    ),
    ("data_root", DataRoot, None),
    ("input_shape", InputShape, None),
)
_LAST: tuple[Flag, ...] = (
    ("batch_size", BatchSize, None),
    ("augment", Augment, None),
    ("seed", Seed, None),
    ("device", Device, None),
    ("precision", Precision, None),
    ("channels_last", ChannelsLast, None),
    ("set_", Settings, None),
    ("resume", Resume, False),
    ("trust", Trust, False),
    ("download", Download, False),
)


@dataclass(frozen=True)
class RunFlags:
    """The parsed flags that all runs have; `given` holds those that are settings."""

    out: Path
    resume: bool
    trust: bool
    config: Path | None
    set_: Sequence[str]
    given: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command line, for the journal."""
        return "prunus " + shlex.join(sys.argv[1:])

    def settings(
        self,
        own: Mapping[str, Any],
        *,
        example: str,
        needs: Sequence[str] = ("model", "data"),
        kind: str = "run",
        start: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the settings: of the recipe or the run to resume, then flags, then `--set`.

        Args:
            own: flags of the command itself, by the path of the setting; None if not given.
            example: a setting that an error about `--set` shows.
            needs: the required settings.
            kind: the kind of run that the settings are for, see `base_settings`.
            start: settings, by path, that apply if the recipe does not specify them.

        Raises:
            ConfigError: a flag cannot be parsed, a required setting is missing, or the recipe or
                the run to resume names a source file, and --trust is not given.
        """
        values = base_settings(self.config, self.out if self.resume else None, kind=kind)
        written = _networks(values)
        for path, value in (start or {}).items():
            if _at(values, path) is None:
                put_flags(values, {path: value})
        put_flags(values, {**self.given, **own})
        put_settings(values, self.set_, example)
        if not self.trust:
            named: dict[str, Any] = {}
            put_flags(named, {**self.given, **own})
            put_settings(named, self.set_, example)
            self._require_named(written & _networks(values) - _networks(named))
        for key in needs:
            if values.get(key) is None:
                lacks = f" ({self.out / 'config.yaml'} does not exist)" if self.resume else ""
                raise ConfigError(f"no {key} given{lacks}: pass --{key}, or --config with one")
        return values

    def _require_named(self, specs: set[str]) -> None:
        """Raise if building one of the networks runs a file that the command line does not name."""
        from prunus.models import source_file_of  # noqa: PLC0415 - torch takes seconds

        for spec in sorted(specs):
            if (file := source_file_of(spec)) is not None:
                source = self.config or self.out / "config.yaml"
                raise ConfigError(
                    f"{source} builds a network with the code of {file}, which is only run if you "
                    f"name it (--model {spec}) or trust what names it (--trust)"
                )


def _networks(values: Mapping[str, Any]) -> set[str]:
    """Return the networks that settings name."""
    named = (values.get("model"), *(values.get("fixed") or ()))
    return {spec for spec in named if isinstance(spec, str)}


def run_command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn `verb(flags: RunFlags, …own flags…)` into a command with all flags."""

    def read(given: dict[str, Any]) -> RunFlags:
        return RunFlags(
            out=given.pop("out"),
            resume=given.pop("resume"),
            trust=given.pop("trust"),
            config=given.pop("config"),
            set_=given.pop("set_") or (),
            given=given,
        )

    return make_command(function, _FIRST, _LAST, read)


def make_command(
    function: Callable[..., None],
    first: Sequence[Flag],
    last: Sequence[Flag],
    read: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """Turn `verb(flags, …own flags…)` into a command with the flags `first`, its own, and `last`.

    `read` builds `flags` from the values of `first` and `last`, with the input shape parsed.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [
        *(_parameter(*each) for each in first),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
        *(_parameter(*each) for each in last),
    ]

    def command(**given: Any) -> None:
        mine = {each.name: given.pop(each.name) for each in own}
        given["input_shape"] = parse_shape(given["input_shape"])
        with permitting_downloads(_agree if given.pop("download") else _ask):
            function(read(given), **mine)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _agree(what: str) -> bool:
    return True


def _ask(what: str) -> bool:
    """Ask at the terminal, if there is one."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(f"{what} is missing. Download it?", default=False, err=True)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _at(values: Mapping[str, Any], path: str) -> Any:
    """Return the setting at a path, or None."""
    found: Any = values
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
