"""The events of a journal: each has a type, and old journals keep to it."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from prunus.core import EVENTS, Event, last, of_event, read_rows, rejected, trajectory
from tests.journal import check_rows

OLD = Path(__file__).parents[1] / "old_runs" / "0.1-lenet300" / "record.jsonl"


def test_every_event_has_a_type() -> None:
    assert set(get_args(Event)) == set(EVENTS)


def test_an_old_journal_keeps_to_them() -> None:
    rows, _ = read_rows(OLD)
    assert check_rows(rows) >= {"run", "fit", "graph", "iteration", "prune", "result", "layers"}


@pytest.mark.parametrize(
    "row",
    [
        {"event": "stop"},
        {"event": "stop", "reason": 3},
        {"event": "stop", "reason": "the budget is met", "why": ""},
    ],
)
def test_the_check_sees_what_does_not_fit(row: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, AssertionError)):
        check_rows([row])


def test_rows_are_picked_by_event_and_iteration() -> None:
    rows: list[dict[str, Any]] = [
        {"event": "iteration", "iteration": 1, "kept": True, "n": 1},
        {"event": "stop", "reason": "…"},
        {"event": "iteration", "iteration": 0, "n": 0},
        {"event": "iteration", "iteration": 1, "n": 2},
        {"event": "iteration", "iteration": 2, "kept": False, "n": 3},
    ]
    assert [row["n"] for row in of_event(rows, "iteration")] == [1, 0, 2, 3]
    assert last(rows, "iteration") == rows[-1]
    assert last(rows, "run") is None
    assert rejected(rows) == [rows[-1]]
    assert {at: row["n"] for at, row in trajectory(rows, "iteration").items()} == {0: 0, 1: 2}
