"""The memory planner: how to run a network on a system."""

from app.planner.network import Network
from app.planner.plan import Alternative, CutMove, Plan, PlannedStage
from app.planner.planner import NoPlan, plan
from app.planner.request import Fixed, Objective, PlanError, Request

__all__ = [
    "Alternative",
    "CutMove",
    "Fixed",
    "Network",
    "NoPlan",
    "Objective",
    "Plan",
    "PlanError",
    "PlannedStage",
    "Request",
    "plan",
]
