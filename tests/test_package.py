"""What the package says of itself."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

import prunus
from tests.cli.command import prunus_

ROOT = Path(__file__).resolve().parents[1]


def test_the_version_is_that_of_the_installed_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert prunus.__version__ == importlib.metadata.version("prunus") == project["version"]


def test_a_source_tree_that_is_not_installed_has_a_version_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sys.modules["prunus.core.version"], "version", missing)
    assert prunus.__version__ == "0+unknown"


def test_version_comes_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus_("--version", "no-such-command") == 0
    assert capsys.readouterr().out == f"prunus {prunus.__version__}\n"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'prunus' has no attribute 'nope'"):
        _ = prunus.nope
