"""The latency table that a budget in milliseconds is counted by: measured once, kept, used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunus.core import write_whole
from prunus.evaluation import LatencyTable, measure_latency_table
from prunus.graph import Groups
from prunus.pipelines.config import PruneConfig
from prunus.pipelines.journal import Journal
from prunus.pipelines.watch import Watch
from prunus.plan import Budget
from prunus.plan.ledger import Ledger

__all__ = ["costs_of", "keep_table", "table_for"]

FILE = "latency.json"


def table_for(
    budget: Budget,
    dense: nn.Module,
    groups: Groups,
    example: Tensor,
    config: PruneConfig,
    *,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> LatencyTable | None:
    """Return the table of the dense network, None where the budget asks for no milliseconds.

    What an earlier start of the same run measured lies in `folder` and is taken from there: a
    plan depends on it, and a second measurement would differ.
    """
    if all(limit.currency != "ms" for limit in budget.limits):
        return None
    if folder is not None and (folder / FILE).exists():
        return LatencyTable.from_json((folder / FILE).read_text())
    progress = (watch or Watch()).batches(f"timing layers at batch {config.latency_batch}")
    return measure_latency_table(
        dense, groups, example, batch=config.latency_batch, progress=progress
    )


def keep_table(table: LatencyTable | None, groups: Groups, journal: Journal) -> None:
    """Write the table into the run folder and journal what it says of the dense network."""
    if table is None:
        return
    if journal.folder is not None:
        write_whole(journal.folder / FILE, table.to_json())
    row: dict[str, Any] = {
        "batch": table.batch,
        "threads": table.threads,
        "machine": table.machine,
        "rest": table.rest,
        "ms": Ledger(groups, table).totals["ms"],
    }
    journal.append_once("latency", row)


def costs_of(groups: Groups, table: LatencyTable | None) -> dict[str, float]:
    """Return what a traced network costs: params, macs, bytes, and with a table ms."""
    return Ledger(groups, table).totals
