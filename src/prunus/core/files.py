"""Files, read and written safely: regular files only, written whole, errors in one sentence.

A write goes to a scratch file, is fsynced and renamed, and the folder is fsynced.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from prunus.core.errors import FileError, PrunusError

__all__ = [
    "digest",
    "find_scratch",
    "parse_json",
    "read_bytes",
    "read_text",
    "remove",
    "require_regular",
    "sweep_scratch",
    "to_json",
    "unwritable",
    "write_whole",
    "writing_whole",
]

#: Ending of files that are being written.
SCRATCH = ".scratch"
#: How PyTorch's C++ says that a write failed; it does not say why.
WRITER = "PytorchStreamWriter failed writing", "file write failed", "unexpected pos"


def require_regular(path: Path, *, raising: type[PrunusError] = FileError) -> None:
    """Raise unless `path` is a file of bytes that can be read: reading a FIFO would never end."""
    with _opened(path, raising):
        pass


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file.

    Raises:
        FileError: it cannot be read.
    """
    with _opened(path, FileError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, *, raising: type[PrunusError] = FileError) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileError, or `raising`: it cannot be read; names the file and the cause.
    """
    with _opened(path, raising) as file:
        return file.read()


def read_text(path: Path, *, raising: type[PrunusError] = FileError) -> str:
    """Return the content of a regular file in UTF-8, on every platform.

    Raises:
        FileError, or `raising`: it cannot be read, or is not UTF-8; names the file and the cause.
    """
    try:
        return read_bytes(path, raising=raising).decode()
    except UnicodeDecodeError as error:
        raise raising(
            f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}): "
            "save it as UTF-8, or give another file"
        ) from error


@contextmanager
def writing_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; on success it replaces `path`, on failure it is removed.

    Other processes see the old file or the new one, never half of one, even after `kill -9`
    or a power cut: the bytes are on disk before the name points to them.

    Raises:
        FileError: the folder cannot be written, or the disk is full; the old file is left.
    """
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, os.strerror(21), str(path))
        handle, scratch_name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SCRATCH)
        os.close(handle)
        scratch = Path(scratch_name)
        yield scratch
        _fsync(scratch)
        scratch.chmod(0o644)
        scratch.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in WRITER):
            raise
        raise unwritable(path, error) from error
    finally:
        if scratch is not None:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whole or not at all.

    Raises:
        FileError: the folder cannot be written, or the disk is full; the old file is left.
    """
    with writing_whole(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def unwritable(path: Path, error: Exception) -> FileError:
    """Return the error that `path` could not be written or removed."""
    reason = (error.strerror if isinstance(error, OSError) else "") or "the disk may be full"
    return FileError(
        f"{path} cannot be written ({reason}): what was finished before is whole; make room or "
        "permit writing there, then give the same command again"
    )


def find_scratch(folder: Path) -> list[Path]:
    """Return the half-written files that a killed process left in `folder`."""
    return sorted(folder.glob(f".*{SCRATCH}"))


def sweep_scratch(folder: Path) -> None:
    """Remove the half-written files that a killed process left in `folder`."""
    for scratch in find_scratch(folder):
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        FileError: the folder does not permit it.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, of which each number is finite and each key unique.

    Raises:
        ValueError: the text is not JSON, is nested more deeply than Python can read, repeats a key
            of an object, or holds NaN, infinity or a number beyond double precision.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_representable,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is beyond double precision")
    return value


def _representable(digits: str) -> int:
    if len(digits) > 300:  # a double has up to 309 digits; what counts and measures has fewer
        raise ValueError(f"{digits[:20]}… is beyond double precision")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return found


@contextmanager
def _opened(path: Path, raising: type[PrunusError]) -> Iterator[BufferedReader]:
    """Open a regular file for reading, and turn what fails into one sentence."""
    try:
        # a FIFO would be waited for without O_NONBLOCK, which regular files ignore
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(0, "it is not a regular file")
            yield file
    except OSError as error:
        raise raising(
            f"{path} cannot be read ({error.strerror or error}): give a file that exists and that "
            "you may read"
        ) from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
