"""Download what is missing through torchvision, or report where to get it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunus.data.registry import DATASETS, missing

__all__ = ["download"]


def download(name: str, data_root: Path, files: str, fetch: Callable[[Any], object]) -> None:
    """Call `fetch` with the module `torchvision.datasets`, and check that the data set is present.

    Raises:
        DataError: the download failed; the message says why, and where to put `files`.
    """
    try:
        fetch(importlib.import_module("torchvision.datasets"))  # slow to import: only when needed
    except Exception as error:  # no network, no mirror, or a read-only folder
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise missing(name, data_root, files, reason.rstrip(".: ")) from error
    if DATASETS[name].find(data_root, "") is None:
        raise missing(name, data_root, files, "the download did not contain them")
