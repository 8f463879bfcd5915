"""Whether data may be downloaded: nothing goes over the network unless the user asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["may_download", "permitting_downloads"]

#: Answers whether what it is given, such as `mnist from https://…`, may be downloaded.
_ASK: ContextVar[Callable[[str], bool]] = ContextVar("ask", default=lambda what: False)


def may_download(what: str) -> bool:
    """Return whether the user permits the download of `what`."""
    return _ASK.get()(what)


@contextmanager
def permitting_downloads(ask: Callable[[str], bool] = lambda what: True) -> Iterator[None]:
    """Permit downloads within a `with` block, all of them or those that `ask` agrees to.

    It is no setting of a run: a recipe or a run folder of somebody else cannot start a download.

    Example:
        >>> with permitting_downloads(lambda what: "mnist" in what):
        ...     may_download("mnist from https://…"), may_download("cifar10 from https://…")
        (True, False)
    """
    token = _ASK.set(ask)
    try:
        yield
    finally:
        _ASK.reset(token)
