"""Turn scores and a budget into frozen JSON edits by module name and index."""

from prunus.plan.allocate import ALLOCATIONS, check_reachable, least_costs, make_plan
from prunus.plan.broadcast import broadcast_plan
from prunus.plan.budget import CURRENCIES, Budget, BudgetLike, BudgetText, Limit, budget_text
from prunus.plan.cost_tracker import CostTracker
from prunus.plan.difference import GroupDifference, PlanDifference, compare_plans
from prunus.plan.even import Evenness, choose_round_to
from prunus.plan.plan import Edit, Plan, plan_units
from prunus.plan.predict import Prediction, predict_loss
from prunus.plan.threshold import plan_below

__all__ = [
    "ALLOCATIONS",
    "CURRENCIES",
    "Budget",
    "BudgetLike",
    "BudgetText",
    "CostTracker",
    "Edit",
    "Evenness",
    "GroupDifference",
    "Limit",
    "Plan",
    "PlanDifference",
    "Prediction",
    "broadcast_plan",
    "budget_text",
    "check_reachable",
    "choose_round_to",
    "compare_plans",
    "least_costs",
    "make_plan",
    "plan_below",
    "plan_units",
    "predict_loss",
]
