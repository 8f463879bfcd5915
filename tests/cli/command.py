"""Running the command line in this process."""

import sys
from pathlib import Path

import pytest

from prunus.cli import main


def prunus_(*arguments: str | Path) -> int:
    """Run the command line; return its exit code."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["prunus", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0
