"""The journal of a run: every measurement, one JSON object per line, appended and fsynced."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prunus.core.errors import RunFolderError
from prunus.core.rows import Event, Row

__all__ = ["Record", "read_rows"]


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Return the rows of a journal and how many bytes they take; a torn last line is left out.

    Raises:
        RunFolderError: a line before the last is not a JSON object; names the line.
    """
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows: list[Row] = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise RunFolderError(
                f"{path}, line {number}, is not JSON ({error}): the journal was edited or the "
                "disk is faulty; start the run again in another folder"
            ) from error
    return rows, len(whole)


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
        if path is not None and path.exists():
            self.rows, whole = read_rows(path)
            if whole < path.stat().st_size:
                os.truncate(path, whole)

    def append(self, event: Event, **values: Any) -> None:
        """Add a row; it is on disk when this returns."""
        row = {"event": event, **values}
        line = json.dumps(row, allow_nan=False) + "\n"
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def find(self, event: Event, **keys: Any) -> Row | None:
        """Return the last row of `event` whose values equal `keys`, or None."""
        for row in reversed(self.rows):
            if row["event"] == event and all(row.get(k) == v for k, v in keys.items()):
                return row
        return None

    def all(self, event: Event) -> list[Row]:
        """Return every row of `event`, oldest first."""
        return [row for row in self.rows if row["event"] == event]
