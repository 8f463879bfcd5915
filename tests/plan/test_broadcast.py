"""One process has its plan already; two are in tests/pains/test_distributed.py."""

import pytest

from prunus.core.errors import PlanError
from prunus.plan import Plan, broadcast_plan


def test_one_process_keeps_its_plan() -> None:
    plan = Plan()
    assert broadcast_plan(plan) is plan


def test_no_plan_is_named() -> None:
    with pytest.raises(PlanError, match="rank 0 passed no plan"):
        broadcast_plan(None)
