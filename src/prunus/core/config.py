"""Configuration: frozen keyword-only dataclasses, checked when made, written as YAML."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from prunus.core.errors import ConfigError, one_line
from prunus.core.files import read_text

__all__ = [
    "STRICT",
    "from_dict",
    "one_of",
    "parse_yaml",
    "read_settings",
    "read_yaml",
    "to_dict",
    "to_yaml",
]

#: Settings of every config dataclass: unknown keys are errors, `1e-3` read as text is a number.
STRICT = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

#: Most nodes of a YAML text: a run's configuration has about a hundred.
NODES = 100_000

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
            f"{source}: {key} is {repr(first['input'])[:200]}, but "
            f"{message[0].lower()}{message[1:]}"
        ) from error


def parse_yaml(text: str) -> Any:
    """Return the plain value of a YAML text, whose keys are unique.

    Raises:
        ValueError: the text is not YAML, has tags of Python objects, repeats a key, is nested too
            deeply, or repeats a part of itself so often that its value would fill the memory.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _count(node, {})
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever a scalar makes them
        raise ValueError(one_line(error)) from error


def _count(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """Return how many nodes the value of a node has, each repetition (`*name`) counted.

    Raises:
        ValueError: more than `NODES`, a node in itself, or a key that is there twice.
    """
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if keys and (found := keys.most_common(1)[0])[1] > 1:
            raise ValueError(f"the key {found[0]!r} is there twice")
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    else:
        return 1
    if id(node) not in counts:
        counts[id(node)] = NODES + 1  # a node within itself has no end
        counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    if counts[id(node)] > NODES:
        raise ValueError("its repetitions (*name) would fill the memory")
    return counts[id(node)]


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping of settings, unchecked.

    Raises:
        ConfigError: the file cannot be read, or is not a YAML mapping.
    """
    text = read_text(path, raising=ConfigError)
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}: give a config.yaml of a run") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of settings")
    if wrong := [key for key in values if not isinstance(key, str)]:
        raise ConfigError(f"{path}: {wrong[0]!r} is no name of a setting: give a config.yaml")
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
    if type(version) is not int or version != _Versioned.version:
        raise ConfigError(
            f"{path} has format version {version}, this Prunus reads {_Versioned.version}: "
            "write it again with this version"
        )
    return from_dict(kind, values, source=str(path))
