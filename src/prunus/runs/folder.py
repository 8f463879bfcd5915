"""Open the folder of a run: a new one, or the same run to be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from prunus.core import (
    RECORD,
    ConfigError,
    RunFolderError,
    read_yaml,
    seals_of,
    sweep_scratch,
    to_dict,
    to_yaml,
    write_whole,
)
from prunus.export import FORMATS
from prunus.runs.environment import NetworkSettings
from prunus.runs.journal import Journal

__all__ = ["RunSettings", "open_folder"]

#: What a run folder may hold before the first row of its journal.
BEFORE_THE_JOURNAL = {"config.yaml", "report.html", RECORD}


class RunSettings(NetworkSettings, Protocol):
    """The settings of any pipeline that creates a folder, and its purpose in a word."""

    @property
    def aim(self) -> str: ...  # noqa: D102


def open_folder(config: RunSettings, out: Path, *, resume: bool) -> Journal:
    """Return the journal of `out`, new with its `config.yaml`, or that of the run to resume.

    Raises:
        RunFolderError: `out` contains other files or another run, or this run and `resume` is off.
    """
    path = out / "config.yaml"
    if not path.exists():
        if _content(out):
            raise RunFolderError(
                f"{out} is not empty and not a run folder of Prunus: give another folder with --out"
            )
        write_whole(path, to_yaml(config))
        return _sealed(out)
    try:
        other = read_yaml(type(config), path)
    except ConfigError as error:
        raise RunFolderError(
            f"{out} contains a run of another kind, or settings that cannot be read ({error}): "
            "give another folder with --out"
        ) from error
    if not resume:
        raise RunFolderError(
            f"{out} already contains a run ({other.model} on {other.data}, {other.aim}): "
            "continue it with --resume, or give another folder with --out"
        )
    for key, value in to_dict(config).items():
        if to_dict(other)[key] != value:
            raise RunFolderError(
                f"{out} contains a run with {key} {to_dict(other)[key]!r}, but {value!r} was "
                "given: --resume needs the same settings; give another folder with --out"
            )
    return _sealed(out)


def _content(out: Path) -> set[str]:
    """Return the names in a folder, none if there is no folder."""
    try:
        return {each.name for each in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise RunFolderError(
            f"{out} cannot be used as a run folder ({error.strerror}): give another with --out"
        ) from error


def _sealed(out: Path) -> Journal:
    """Return the journal of a run whose finished files are as they were sealed.

    Raises:
        RunFolderError: one of them is damaged or gone, or the journal is; nothing is written then.
    """
    journal = Journal(out)
    if not journal.record.rows and (left := _content(out) - BEFORE_THE_JOURNAL):
        raise RunFolderError(
            f"{out} has no {RECORD}, or an empty one, but {min(left)}, which cannot be checked "
            "without it: restore the journal from a copy, or give another folder with --out"
        )
    seals = seals_of(journal.record.rows)
    remade = {path.name for name in FORMATS for path in FORMATS[name].files(out)}
    for name in seals:
        if not (out / name).exists() and name not in remade and not name.startswith("steps/"):
            raise RunFolderError(
                f"{out / name} is gone, whose SHA-256 is in {out / RECORD}: restore it from a "
                "copy, or repeat the run in another folder"
            )
    journal.require(*seals)
    for folder in out.iterdir():
        if folder.is_dir() and not (folder / "config.yaml").exists():  # else a run of its own
            sweep_scratch(folder)
    return journal
