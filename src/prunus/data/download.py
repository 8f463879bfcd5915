"""Fetching what is missing through torchvision, or saying where it is to be had."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunus.data.registry import DATASETS, missing

__all__ = ["download"]


def download(name: str, data_root: Path, files: str, fetch: Callable[[Any], object]) -> None:
    """Call `fetch` with the module `torchvision.datasets`, and see that the data set is there.

    Raises:
        DataError: it could not be fetched; the message says why, and where to put `files`.
    """
    try:
        fetch(importlib.import_module("torchvision.datasets"))  # heavy: only where asked for
    except Exception as error:  # no network, no mirror, or a folder that is read-only
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise missing(name, data_root, files, reason.rstrip(".: ")) from error
    if DATASETS[name].find(data_root, "") is None:
        raise missing(name, data_root, files, "the download left them out")
