"""Import the libraries that report their use to their makers, with that switched off."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from prunus.core.imports import imported

__all__ = ["import_without_telemetry"]

_SWITCH = "ORT_DISABLE_TELEMETRY"
_REPORTER = "openvino_telemetry"


def import_without_telemetry(name: str) -> Any:
    """Return the library `name`, imported so that it sends nothing and writes no identifier.

    | library | what importing it does by default | how that is switched off |
    | --- | --- | --- |
    | onnxruntime | from 1.32: writes a device id below | `ORT_DISABLE_TELEMETRY=1` in the |
    | | the home folder, and sends events to Microsoft | environment, unless the user has set it |
    | openvino | sends an event to Intel | `openvino_telemetry` cannot be imported |

    Both decide once, when they are imported: environment and `sys.modules` are left as they were
    found, and a library that has been imported already is returned as it is. Nothing else in
    Prunus imports them (a rule of the linter), and a process that Prunus starts imports them here.

    Source: Privacy.md, "Disabling Telemetry", in the package onnxruntime 1.32.

    Example:
        >>> import_without_telemetry("onnxruntime").__name__
        'onnxruntime'
    """
    if name in sys.modules:
        return sys.modules[name]
    with _SWITCHED_OFF[name]():
        return imported(name)


@contextlib.contextmanager
def _without_ort_telemetry() -> Iterator[None]:
    if _SWITCH in os.environ:
        yield
        return
    os.environ[_SWITCH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SWITCH, None)


@contextlib.contextmanager
def _without_openvino_telemetry() -> Iterator[None]:
    found = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # Python's mark for "not there"
    try:
        yield
    finally:
        del sys.modules[_REPORTER]
        if found is not None:
            sys.modules[_REPORTER] = found


_SWITCHED_OFF: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "onnxruntime": _without_ort_telemetry,
    "openvino": _without_openvino_telemetry,
}
