"""The latency table for a budget in milliseconds: measured once, saved, used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from prunus.batches import Example
from prunus.core import BudgetError, DataError, read_text, require_sealed, write_whole
from prunus.evaluation import MULTIPLES, LatencyTable, measure_latency_table
from prunus.graph import Groups
from prunus.plan import Budget, CostTracker, check_reachable, choose_round_to
from prunus.runs import Journal, PruneConfig, Session, Watch

__all__ = ["costs_of", "keep_table", "table_for", "with_round_to"]

FILE = "latency.json"


def table_for(
    budget: Budget,
    dense: nn.Module,
    groups: Groups,
    example: Example,
    config: PruneConfig,
    *,
    folder: Path | None = None,
    watch: Watch | None = None,
) -> LatencyTable | None:
    """Return the table of the dense network, None if the budget has no limit in milliseconds.

    If `folder` contains the table that an earlier start of the same run measured, it is read from
    there: a plan depends on it, and a second measurement would differ.
    """
    if all(limit.currency != "ms" for limit in budget.limits):
        return None
    if folder is not None and (folder / FILE).exists():
        require_sealed(folder, FILE)
        try:
            return LatencyTable.from_json(read_text(folder / FILE))
        except DataError as error:
            raise DataError(f"{folder / FILE}: {error}") from error
    progress = (watch or Watch()).batches(f"timing layers at batch {config.latency_batch}")
    return measure_latency_table(
        dense,
        groups,
        example,
        batch=config.latency_batch,
        steps=config.round_to is None,
        progress=progress,
    )


def keep_table(table: LatencyTable | None, groups: Groups, journal: Journal) -> None:
    """Write the table into the run folder and journal its prediction for the dense network."""
    if table is None:
        return
    if journal.folder is not None:
        write_whole(journal.folder / FILE, table.to_json())
        journal.seal(FILE)
    row: dict[str, Any] = {
        "batch": table.batch,
        "threads": table.threads,
        "machine": table.machine,
        "rest": table.rest,
        "ms": CostTracker(groups, table).totals["ms"],
    }
    journal.append_once("latency", row)


def with_round_to(
    config: PruneConfig,
    budget: Budget,
    groups: Groups,
    session: Session,
    *,
    protected: Mapping[str, Iterable[int]],
) -> PruneConfig:
    """Return the settings with `round_to` set: the user's value, or one from the latency table.

    If the budget cannot be reached with the multiple chosen from the table, the next smaller one
    is used. The choice and its reason are journalled; without a table it is 1.
    """
    if config.round_to is not None or session.table is None:
        return replace(config, round_to=config.round_to or 1)
    chosen = choose_round_to(session.table, groups)
    options = [m for m in (1, *MULTIPLES) if m <= chosen.multiple]
    while len(options) > 1:
        try:
            check_reachable(
                groups,
                budget,
                least=config.least,
                round_to=options[-1],
                protected=protected,
                table=session.table,
            )
        except BudgetError:
            options.pop()
        else:
            break
    multiple, reason = options[-1], chosen.reason
    if multiple < chosen.multiple:
        taken = "any width is" if multiple == 1 else f"multiples of {multiple} are"
        reason += f"; {taken} used, because the budget cannot be reached with {chosen.multiple}"
    row = {
        "multiple": multiple,
        "reason": reason,
        "layers": chosen.layers,
        "excess": {str(each): list(found) for each, found in chosen.excess.items()},
    }
    session.journal.append_once("round_to", row)
    session.watch.say(f"widths: {reason}")
    return replace(config, round_to=multiple)


def costs_of(groups: Groups, table: LatencyTable | None) -> dict[str, float]:
    """Return the costs of a traced network: params, macs, bytes, and with a table ms."""
    return CostTracker(groups, table).totals
