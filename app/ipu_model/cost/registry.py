"""The table of cost rules: one function for each kind of operation."""

from typing import Callable, Dict

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.graph import Graph, Op

__all__ = ["RULES", "Rule", "rule"]

Rule = Callable[[Graph, Op, CostContext], Cost]

RULES: Dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register the decorated function for these kinds.

    A rule reads the operation's kind and attributes and the shapes, types and roles of its
    operands and results, nothing else: equal operations are costed once.

    Raises:
        ValueError: a kind has a rule already.
    """

    def register(function: Rule) -> Rule:
        for kind in kinds:
            if kind in RULES:
                raise ValueError(f"{kind}: has a cost rule already, {RULES[kind].__name__}")
            RULES[kind] = function
        return function

    return register
