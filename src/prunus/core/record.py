"""The journal of a run: every measurement, one JSON object per line, appended and fsynced.

Each line ends with `crc32`, a checksum over it and all lines before it: a bit that flipped, or a
line that was lost or moved, is found when the journal is read. It tells of damage, not of forgery.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunus.core.check import check_row
from prunus.core.errors import RunFolderError
from prunus.core.files import parse_json, read_bytes, unwritable
from prunus.core.rows import Event, Row

__all__ = ["Record", "read_rows", "rows_to_lines"]

#: What ends the line of a row that carries its checksum.
CHECKSUM = re.compile(rb', "crc32": "([0-9a-f]{8})"}$')


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Return the rows of a journal and how many bytes they take; a torn last line is left out.

    Raises:
        RunFolderError: the file cannot be read, or a line before the last is not a row or does not
            have its checksum; names the line.
    """
    content = read_bytes(path, raising=RunFolderError)
    whole = content[: content.rfind(b"\n") + 1]
    return _read(whole, path)[0], len(whole)


def _read(whole: bytes, path: Path) -> tuple[list[Row], int]:
    """Return the rows and the checksum of their lines; a journal of an earlier version has none."""
    rows: list[Row] = []
    summed, carried = 0, False
    for number, line in enumerate(whole.splitlines(), 1):
        wrong = f"{path}, line {number}, "
        what = "the journal was edited or the disk is faulty; restore it from a copy, or start the "
        what += "run again in another folder"
        found = CHECKSUM.search(line)
        body = line[: found.start()] + b"}" if found else line
        summed = zlib.crc32(body, summed)
        if (found is None and carried) or (found and int(found[1], 16) != summed):
            raise RunFolderError(f"{wrong}does not have its checksum: {what}")
        carried = found is not None
        try:
            row = parse_json(body)
        except ValueError as error:
            raise RunFolderError(f"{wrong}is not JSON ({error}): {what}") from error
        if not isinstance(row, dict) or not isinstance(row.get("event"), str):
            raise RunFolderError(f"{wrong}is not an object with an event: {what}")
        try:
            check_row(row)
        except ValueError as error:
            raise RunFolderError(f"{wrong}is not a row of Prunus: {error}; {what}") from error
        rows.append(row)
    return rows, summed


def _truncate(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError as error:
        raise unwritable(path, error) from error


def rows_to_lines(rows: Iterable[Row], summed: int = 0) -> tuple[str, int]:
    """Return rows as lines of a journal that go on from the checksum `summed`, and the new one."""
    lines = []
    for row in rows:
        body = json.dumps(row, allow_nan=False)
        summed = zlib.crc32(body.encode(), summed)
        lines.append(f'{body[:-1]}, "crc32": "{summed:08x}"}}\n')
    return "".join(lines), summed


class Record:
    """An append-only list of rows, on disk when it has a path.

    A row is a flat-ish dict with an `event` key. `find(event, **keys)` returns the row of a step
    that has been journalled already, which is all that resuming needs. A last line that a kill cut
    short is dropped on reading; any other broken line is an error of the file.

    Example:
        >>> record = Record()
        >>> record.append("fit", iteration=1, accuracy=0.9)
        >>> record.find("fit", iteration=1)["accuracy"]
        0.9
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read the rows that `path` already holds; without a path, keep rows in memory."""
        self.path = path
        self.rows: list[Row] = []
        self._summed = 0
        if path is not None and path.exists():
            content = read_bytes(path, raising=RunFolderError)
            whole = content[: content.rfind(b"\n") + 1]
            self.rows, self._summed = _read(whole, path)
            if len(whole) < len(content):
                _truncate(path, len(whole))

    def append(self, event: Event, **values: Any) -> None:
        """Add a row; it is on disk when this returns.

        Raises:
            FileError: it cannot be written; the journal is as it was.
        """
        row = {"event": event, **values}
        line, summed = rows_to_lines([row], self._summed)
        if self.path is not None:
            self._write(self.path, line.encode())
        self.rows.append(row)
        self._summed = summed

    def _write(self, path: Path, line: bytes) -> None:
        """Append a line, whole or not at all."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    left = memoryview(line)
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(path, before)  # a full disk holds half a line
                    raise
        except OSError as error:
            raise unwritable(path, error) from error

    def find(self, event: Event, **keys: Any) -> Row | None:
        """Return the last row of `event` whose values equal `keys`, or None."""
        for row in reversed(self.rows):
            if row["event"] == event and all(row.get(k) == v for k, v in keys.items()):
                return row
        return None

    def all(self, event: Event) -> list[Row]:
        """Return every row of `event`, oldest first."""
        return [row for row in self.rows if row["event"] == event]
