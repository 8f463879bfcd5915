"""A factory from a Python file that is not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from prunus.core import ConfigError

__all__ = ["load_factory", "source_file_of", "split_source", "wanted"]


def split_source(spec: str) -> tuple[str, str] | None:
    """Return the file and the factory of `FILE.py:factory`, None if `spec` is a plain name.

    Example:
        >>> split_source("nets/mine.py:small"), split_source("timm:resnet18")
        (('nets/mine.py', 'small'), None)
    """
    if spec.endswith(".py"):
        return spec, ""
    path, _, factory = spec.rpartition(":")
    return (path, factory) if path.endswith(".py") else None


def source_file_of(spec: str) -> str | None:
    """Return the Python file whose code builds the network `spec`, also a grown one, or None."""
    found = split_source(spec) or split_source(spec.rpartition("@")[0])
    return None if found is None else found[0]


def load_factory(path: str, name: str) -> Callable[..., Any]:
    """Import the file at `path` and return its callable `name`.

    Raises:
        ConfigError: the file is missing or fails to import, or has no such callable.
    """
    module = _import_file(Path(path).expanduser())
    factory = getattr(module, name, None) if name else None
    if callable(factory):
        return factory  # type: ignore[no-any-return]  # a callable is all that is known
    found = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    listed = ", ".join(found) if found else "none"
    problem = f"{path} has no callable {name!r}" if name else f"{path} names no factory"
    raise ConfigError(f"{problem}: write {path}:FACTORY; the callables it defines are {listed}")


def wanted(factory: Callable[..., Any], settings: dict[str, Any], spec: str) -> dict[str, Any]:
    """Return those of `settings` that `factory`, named by `spec`, accepts by keyword.

    Raises:
        ConfigError: it requires arguments that `settings` lacks; names them.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a C function without a signature
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    lacking = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in variadic and p.name not in settings
    ]
    if lacking:
        raise ConfigError(
            f"{spec} cannot be called without {', '.join(lacking)}, but it is only given "
            f"{' and '.join(settings)}: name a one-line function that passes the rest"
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(settings)
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in settings.items() if key in by_keyword}


def _import_file(path: Path) -> ModuleType:
    """Import `path` once for each content, under a unique name in `sys.modules`.

    Pickling and `inspect` find classes through that entry. While the file runs, its folder is on
    `sys.path`, as for a script.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): give path/to/file.py:factory"
        ) from error
    resolved = path.resolve()
    digest = hashlib.sha256(str(resolved).encode() + b"\0" + content).hexdigest()[:12]
    name = f"prunus_external_{resolved.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file: give path/to/file.py:factory")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(resolved.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise ConfigError(
            f"{path} could not be imported: it raised {type(error).__name__}: "
            f"{(str(error).strip().splitlines() or ['no message'])[0]}"
        ) from error
    finally:
        if str(resolved.parent) in sys.path:
            sys.path.remove(str(resolved.parent))
    return module
