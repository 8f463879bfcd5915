"""Flags and `--set KEY=VALUE` → nested settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prunus.core import ConfigError, parse_yaml

__all__ = [
    "base_settings",
    "parse_image_shape",
    "parse_names",
    "parse_shape",
    "put",
    "put_flags",
    "put_settings",
]


def base_settings(config: Path | None, out: Path | None, *, kind: str = "run") -> dict[str, Any]:
    """Return the settings to start from: those of --config, or of the run to resume.

    `kind` is the kind of run: one that grows a network (`grow`), derives one (`search`), or any
    other (`run`).
    """
    path = config
    if path is None and out is not None and (out / "config.yaml").exists():
        path = out / "config.yaml"
    if path is None:
        return {}
    from prunus.core import read_yaml, require_sealed, to_dict  # noqa: PLC0415
    from prunus.pipelines import GrowRunConfig, SearchConfig  # noqa: PLC0415
    from prunus.runs import RunConfig  # noqa: PLC0415

    kinds: dict[str, type] = {"run": RunConfig, "grow": GrowRunConfig, "search": SearchConfig}
    if path.name == "config.yaml":  # of a run, if a journal is beside it
        require_sealed(path.parent, path.name)
    return to_dict(read_yaml(kinds[kind], path))


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its path, e.g. `train.lr`."""
    *parents, leaf = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}  # settings that are off by default, e.g. train.push, start here
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a group of settings")
    values[leaf] = value


def put_flags(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Set every given flag; a path is written as text."""
    for key, value in flags.items():
        if value is not None:
            put(values, key, str(value) if isinstance(value, Path) else value)


def put_settings(values: dict[str, Any], settings: Iterable[str], example: str) -> None:
    """Apply every `--set KEY=VALUE`; a value is parsed as YAML."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: expected KEY=VALUE, e.g. {example}")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {setting!r}: the value is not YAML: {error}") from error
        put(values, key.strip(), value)


def parse_shape(text: str | None) -> list[int] | None:
    """Return `3,32,32` or `3x32x32` as three numbers, or None if no text is given."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise ConfigError(
            f"--input-shape {text!r}: expected channels, height and width, e.g. 3,32,32"
        ) from None


def parse_image_shape(text: str | None) -> tuple[int, int, int] | None:
    """Return channels, height and width as three numbers, or None if no text is given."""
    shape = parse_shape(text)
    if shape is None:
        return None
    if len(shape) != 3:
        raise ConfigError(
            f"--input-shape {text!r}: expected channels, height and width, e.g. 3,32,32"
        )
    return shape[0], shape[1], shape[2]


def parse_names(text: str) -> list[str]:
    """Return `onnx,pt2` as a list of names without duplicates."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
