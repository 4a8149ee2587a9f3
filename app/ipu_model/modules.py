"""Modules of a traced graph: where each begins, and what it returns."""

from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List

from app.ipu_model.graph import Graph

__all__ = ["Span", "module_results", "module_spans"]


@dataclass(frozen=True)
class Span:
    """Operations of one module, its children's among them: positions `first` to `last`.

    `whole`: nothing else runs between them, as when a module is called once.
    """

    first: int
    last: int
    whole: bool


def module_spans(graph: Graph, prefix: str = "") -> Dict[str, Span]:
    """The span of every module that runs, by qualified name, in the order in which they begin.

    Names are relative to the module that `prefix` names (with its dot); others are left out.
    """
    positions: Dict[str, List[int]] = {}
    for position, op in enumerate(graph.ops):
        if op.scope.startswith(prefix):
            for name in _ancestors(op.scope[len(prefix) :]):
                positions.setdefault(name, []).append(position)
    return {
        name: Span(found[0], found[-1], found[-1] - found[0] + 1 == len(found))
        for name, found in positions.items()
    }


def module_results(graph: Graph, names: Iterable[str], prefix: str = "") -> Dict[str, int]:
    """The tensor that each of the named modules returns: what its last operation makes."""
    spans = module_spans(graph, prefix)
    last = {name: graph.ops[spans[name].last] for name in names if name in spans}
    return {name: op.outputs[0] for name, op in last.items() if op.outputs}


def _ancestors(scope: str) -> Iterator[str]:
    """A module and all modules around it, outermost first."""
    parts = scope.split(".") if scope else []
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))
