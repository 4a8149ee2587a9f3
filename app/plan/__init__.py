"""What the memory planner makes of a run, remembered, and the run that follows from it.

Only ``app.plan.request`` needs torch, to trace the network; it is imported where there is no answer
yet.
"""

from app.plan.ask import plan_run
from app.plan.run_file import Source, run_text
from app.plan.runs import planned_run

__all__ = ["Source", "plan_run", "planned_run", "run_text"]
