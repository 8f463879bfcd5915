"""Errors, each one sentence: what was given, what was expected, what to do.

Every error a user can cause is a `PrunusError`; the command line prints its one sentence and
exits with code 2. Anything else that escapes is a bug of ours and keeps its traceback.
"""

import re

__all__ = [
    "BudgetError",
    "ConfigError",
    "DataError",
    "ExportError",
    "FileError",
    "NonFiniteError",
    "NothingToPruneError",
    "PlanError",
    "PrunusError",
    "RunFolderError",
    "TraceError",
    "UnknownNameError",
    "WeightsError",
    "one_line",
]


class PrunusError(ValueError):
    """Base of every error that input can cause.

    Example:
        >>> import prunus
        >>> try:
        ...     prunus.Budget.of("flops=50%")
        ... except prunus.PrunusError as error:
        ...     print(str(error)[:33])
        budget 'flops=50%' cannot be read
    """


class ConfigError(PrunusError):
    """A setting has the wrong type or is out of range."""


class UnknownNameError(PrunusError, KeyError):
    """A registry or a mapping does not hold the requested name; also a `KeyError`."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # a KeyError shows the repr of its message


class DataError(PrunusError):
    """Data are missing, unreadable, or unfit for the task."""


class WeightsError(PrunusError):
    """A weight file does not fit the network it was given for."""


class TraceError(PrunusError):
    """A network could not be run or traced."""


class NothingToPruneError(PrunusError):
    """A network has no group whose units can be removed."""


class NonFiniteError(PrunusError):
    """A weight, an activation or a loss is NaN or infinite."""


class BudgetError(PrunusError):
    """A budget cannot be parsed or cannot be reached."""


class PlanError(PrunusError):
    """A plan does not fit the network it is applied to."""


class FileError(PrunusError):
    """A file or folder cannot be read or written: it is missing, forbidden, or the disk is full."""


class RunFolderError(PrunusError):
    """A run folder is missing, incomplete, damaged, or holds another run."""


class ExportError(PrunusError):
    """An exported model does not compute what the PyTorch model computes."""


def one_line(error: BaseException) -> str:
    """Return `Type: text` of an error in one line: the first that says something, without colour.

    Exporters number their steps and compilers print graphs; their cause is what counts.

    Example:
        >>> from prunus.core.errors import one_line
        >>> one_line(KeyError("logits"))
        "KeyError: 'logits'"
    """
    error = error.__cause__ or error
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.') if lines else 'no text'}"
