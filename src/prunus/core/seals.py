"""The seals of a run: the SHA-256 of each file it finished, in rows `files` of its journal.

They tell a damaged file from a good one before it is used. They do not tell who wrote it: whoever
can write the folder can write the journal too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prunus.core.errors import RunFolderError
from prunus.core.files import digest
from prunus.core.record import read_rows
from prunus.core.rows import Row

__all__ = ["RECORD", "broken_seal", "read_seals", "require_sealed", "seals_of"]

#: The journal of a run folder.
RECORD = "record.jsonl"


def seals_of(rows: Iterable[Row]) -> dict[str, str]:
    """Return the SHA-256 of every sealed file by its path in the folder, the last one of each."""
    found: dict[str, str] = {}
    for row in rows:
        if row["event"] == "files":
            found |= row["sha256"]
    return found


def read_seals(folder: Path) -> dict[str, str] | None:
    """Return the seals in the journal of a folder, None if there is no journal.

    Raises:
        RunFolderError: the journal is broken.
    """
    path = folder / RECORD
    return seals_of(read_rows(path)[0]) if path.exists() else None


def broken_seal(folder: Path, name: str, seals: Mapping[str, str]) -> str | None:
    """Return the sentence that a file is not what its seal says; None if it is, or has no seal.

    Raises:
        FileError: the file cannot be read.
    """
    if name not in seals or digest(folder / name) == seals[name]:
        return None
    return (
        f"{folder / name} is not the file that this run wrote, whose SHA-256 is in "
        f"{folder / RECORD}: restore it from a copy, or repeat the run"
    )


def require_sealed(
    folder: Path, *names: str, seals: Mapping[str, str] | None = None, needed: Iterable[str] = ()
) -> None:
    """Raise unless the files of a run are those that its journal seals; a missing one is skipped.

    Args:
        seals: those of the journal, if the caller has read it.
        needed: names among `names` that must have a seal: `config.yaml` of a run of an earlier
            version has none, but a network that nothing seals may be any network.

    Raises:
        RunFolderError: a file differs from its seal, or one in `needed` has none.
        FileError: a file cannot be read.
    """
    found = read_seals(folder) if seals is None else seals
    for name in names:
        if not (folder / name).exists():
            continue
        if name in needed and name not in (found or {}):
            raise RunFolderError(
                f"{folder / name} cannot be checked, for "
                + (f"{folder} has no {RECORD}" if found is None else f"{RECORD} does not seal it")
                + ": restore the journal from a copy of the run, or pass trust=True (--trust) to "
                "use the file unchecked"
            )
        if (wrong := broken_seal(folder, name, found or {})) is not None:
            raise RunFolderError(wrong)
