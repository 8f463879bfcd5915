"""Configuration: frozen keyword-only dataclasses, checked when made, written as YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from prunus.core.errors import ConfigError
from prunus.core.files import read_text

__all__ = ["STRICT", "from_dict", "one_of", "read_settings", "read_yaml", "to_dict", "to_yaml"]

#: Settings of every config dataclass: unknown keys are errors, `1e-3` read as text is a number.
STRICT = ConfigDict(extra="forbid", validate_default=True)

C = TypeVar("C")


def one_of(names: Collection[str]) -> AfterValidator:
    """Return what checks that a setting is one of `names`, a registry's also if added later.

    Example:
        >>> from typing import Annotated
        >>> Colour = Annotated[str, one_of(("red", "blue"))]
    """

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return value

    return AfterValidator(check)


class _Versioned:
    """Format version of `config.yaml`; raised when a key changes its meaning."""

    version: ClassVar[int] = 1


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain nested dicts."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """Return a config dataclass as YAML with its format version first."""
    body = {"version": _Versioned.version, **to_dict(config)}
    return yaml.safe_dump(body, sort_keys=False)


def from_dict(kind: type[C], values: dict[str, Any], source: str = "the configuration") -> C:
    """Build the config dataclass `kind` from `values`.

    Raises:
        ConfigError: names the first key that does not fit, the value given and what was expected.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or kind.__name__
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigError(
            f"{source}: {key} is {first['input']!r}, but {message[0].lower()}{message[1:]}"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping of settings, unchecked.

    Raises:
        ConfigError: the file cannot be read, or is not a YAML mapping.
    """
    text = read_text(path, raising=ConfigError)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply: give a config.yaml of a run") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of settings")
    return values


def read_yaml(kind: type[C], path: Path) -> C:
    """Read a config that `to_yaml` wrote.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, or has another version.
    """
    if not path.exists():
        raise ConfigError(f"no configuration at {path}: give a config.yaml of a run")
    values = read_settings(path)
    version = values.pop("version", None)
    if version != _Versioned.version:
        raise ConfigError(
            f"{path} has format version {version}, this Prunus reads {_Versioned.version}: "
            "write it again with this version"
        )
    return from_dict(kind, values, source=str(path))
