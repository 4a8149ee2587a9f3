"""What the planner found, for people and for other programs.

`summary` for a terminal, `as_json_text` for scripts and `draw` for a picture, each of a `Plan`;
`refusal` for a request that nothing meets. None of them changes anything, and each says that its
figures are simulated.
"""

from app.planner.report.json_text import as_json_text
from app.planner.report.no_plan import refusal
from app.planner.report.picture import draw
from app.planner.report.text import summary

__all__ = ["as_json_text", "draw", "refusal", "summary"]
