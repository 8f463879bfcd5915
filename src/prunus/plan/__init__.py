"""Scores and a budget → frozen JSON edits by module name and index."""

from prunus.plan.allocate import ALLOCATIONS, check_reachable, least_costs, make_plan
from prunus.plan.budget import CURRENCIES, Budget, Limit
from prunus.plan.difference import GroupDifference, PlanDifference, compare_plans
from prunus.plan.plan import Edit, Plan, plan_units
from prunus.plan.predict import Prediction, predict_loss

__all__ = [
    "ALLOCATIONS",
    "CURRENCIES",
    "Budget",
    "Edit",
    "GroupDifference",
    "Limit",
    "Plan",
    "PlanDifference",
    "Prediction",
    "check_reachable",
    "compare_plans",
    "least_costs",
    "make_plan",
    "plan_units",
    "predict_loss",
]
