"""One plan for all processes: ranks with different cuts could not train together."""

from __future__ import annotations

import torch.distributed as dist

from prunus.core import PlanError
from prunus.plan.plan import Plan

__all__ = ["broadcast_plan"]


def broadcast_plan(plan: Plan | None) -> Plan:
    """Return rank 0's plan on every rank of the default process group, sent as JSON.

    The others may pass None or a plan of their own, which is ignored. Without `torch.distributed`
    the plan is returned unchanged.

    Raises:
        PlanError: rank 0 passed no plan; raised on all ranks.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several:
        text = [plan.to_json() if plan is not None and dist.get_rank() == 0 else None]
        dist.broadcast_object_list(text, 0)
        plan = None if text[0] is None else Plan.from_json(text[0])
    if plan is None:
        raise PlanError(
            "rank 0 passed no plan: make one there, and call broadcast_plan on all ranks"
        )
    return plan
