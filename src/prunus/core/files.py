"""Atomic file writes: write a scratch file, fsync, rename, fsync the folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["sweep_scratch", "to_json", "write_whole", "writing_whole"]

#: Ending of files that are being written.
SCRATCH = ".scratch"


@contextmanager
def writing_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; on success it replaces `path`, on failure it is removed.

    Other processes see the old file or the new one, never half of one, even after `kill -9`
    or a power cut: the bytes are on disk before the name points to them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch_name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SCRATCH)
    os.close(handle)
    scratch = Path(scratch_name)
    try:
        yield scratch
        _fsync(scratch)
        scratch.chmod(0o644)
        scratch.replace(path)
        _fsync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with writing_whole(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def sweep_scratch(folder: Path) -> None:
    """Remove the half-written files that a killed process left in `folder`."""
    for scratch in folder.glob(f".*{SCRATCH}"):
        scratch.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
