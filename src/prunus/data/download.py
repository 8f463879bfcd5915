"""Download what is missing through torchvision if the user asked for it, over https alone."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunus.core import imported, may_download
from prunus.data.registry import DATASETS, missing

__all__ = ["download", "only_https"]


def download(name: str, data_root: Path, files: str, fetch: Callable[[Any], object]) -> None:
    """Call `fetch` with the module `torchvision.datasets`, and check that the data set is present.

    It is only called within `permitting_downloads`. torchvision checks the MD5 of what it gets.

    Raises:
        DataError: downloads are not permitted, or this one failed; the message says why, and where
            to put `files`.
    """
    entry = DATASETS[name]
    if not may_download(f"{name} (from {entry.get}, to {data_root / entry.place})"):
        reason = "and is downloaded only if you ask for it (--download, download=True)"
        raise missing(name, data_root, files, reason)
    try:
        with only_https():
            fetch(imported("torchvision.datasets"))  # slow to import: only when needed
    except Exception as error:  # no network, no mirror, or a read-only folder
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
        raise missing(name, data_root, files, f"and could not be downloaded ({reason})") from error
    if DATASETS[name].find(data_root, "") is None:
        reason = "and could not be downloaded (the download did not contain them)"
        raise missing(name, data_root, files, reason)


class _Https(urllib.request.HTTPHandler):
    """Opens `http://…` as `https://…`, also where a server redirects there."""

    def http_open(self, req: urllib.request.Request) -> Any:
        """Ask for the same over https."""
        req.full_url = "https:" + req.full_url.partition(":")[2]
        return self.parent.open(req, timeout=req.timeout)


@contextmanager
def only_https() -> Iterator[None]:
    """Let `urllib` open nothing over http within a `with` block.

    torchvision's list of files has http addresses, and it tries http where https fails.
    """
    before = urllib.request._opener  # type: ignore[attr-defined]  # what install_opener replaces
    urllib.request.install_opener(urllib.request.build_opener(_Https()))
    try:
        yield
    finally:
        urllib.request.install_opener(before)
