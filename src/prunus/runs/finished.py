"""A run that a verb of Python finished: its folder, its journal and its network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from prunus.core import Record, html_table
from prunus.runs.load import load

__all__ = ["FinishedRun"]


@dataclass(frozen=True, repr=False)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: what it wrote, as its command describes it.
        record: its journal, every measurement.
        result: the folder of the network it made, which `prunus.load`, `score` and `export` take.
        trust: whether the network's source file may be run, because the call named it (`load`).

    Example:
        >>> from pathlib import Path
        >>> from prunus.runs import FinishedRun
        >>> from prunus.core import Record
        >>> FinishedRun(Path("runs/found"), Record(), Path("runs/found/derived"))
        FinishedRun('runs/found': 0 rows of journal)
    """

    folder: Path
    record: Record
    result: Path
    trust: bool = False

    @cached_property
    def model(self) -> nn.Module:
        """The network that the run made, in eval mode, on the CPU."""
        return load(self.result, trust=self.trust)

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.folder)!r}: {len(self.record.rows)} rows of journal)"

    def _repr_html_(self) -> str:
        counts: dict[str, int] = {}
        for row in self.record.rows:
            counts[row["event"]] = counts.get(row["event"], 0) + 1
        return html_table(repr(self), ("event", "rows"), list(counts.items()))
