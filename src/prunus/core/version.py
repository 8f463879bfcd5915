"""The version of Prunus that runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_version"]


def installed_version() -> str:
    """Return the version that is installed, "0+unknown" for a source tree that is not.

    Example:
        >>> installed_version()
        '0.1.0'
    """
    try:
        return version("prunus")
    except PackageNotFoundError:
        return "0+unknown"
