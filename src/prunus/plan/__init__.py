"""Scores and a budget → frozen JSON edits by module name and index."""

from prunus.plan.allocate import ALLOCATIONS, check_reachable, make_plan
from prunus.plan.budget import Budget, Limit
from prunus.plan.plan import Edit, Plan, plan_units

__all__ = [
    "ALLOCATIONS",
    "Budget",
    "Edit",
    "Limit",
    "Plan",
    "check_reachable",
    "make_plan",
    "plan_units",
]
