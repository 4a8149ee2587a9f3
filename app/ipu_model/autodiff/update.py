"""The weight update: accumulation, reduction over replicas, and the optimiser."""

from typing import Any, Dict, List

from app.ipu_model.graph import Element, Graph, Op, Phase, Role
from app.ipu_model.program import Execution, ProgramError

__all__ = ["grow_update"]


def grow_update(graph: Graph, execution: Execution) -> Graph:
    """A copy of a training graph, and the operations that turn its gradients into new weights.

    For every gradient, in the order of the backward pass:

    - accumulate: gradient, accumulator -> nothing; directly after the gradient's operation, since
      popart frees a gradient as soon as it can. Where several micro-batches are accumulated, and
      always where SGD's momentum is the accumulator (popart's SGD1).
    - all_reduce: accumulator or gradient -> the same; in_place; where there are replicas.
    - update: parameter, accumulator or gradient, states -> nothing; optimizer, states.

    The first belongs to the backward pass, the others to the update. All run where the gradient
    is made. Accumulators and states are tensors of `Role.STATE`, "accumulator/NAME" and
    "state0/NAME" of the parameter's name. Sources: popart willow/src/optimizer.cpp,
    willow/src/patterns/sgd*decompose.cpp, adamdecompose.cpp, adaptivedecompose.cpp.

    Raises:
        ProgramError: the program does not train.
    """
    if not execution.training:
        raise ProgramError("grow_update: the program is one of inference; give a training one")
    grown = graph.copy()
    producers = graph.producers()
    accumulators = _accumulate(grown, execution, producers)
    for parameter, gradient in graph.gradients.items():
        total = accumulators.get(parameter, gradient)
        _update(grown, execution, parameter, total, producers[gradient])
    return grown


def _accumulate(graph: Graph, execution: Execution, producers: Dict[int, Op]) -> Dict[int, int]:
    """Accumulators by parameter; their operations stand after those that make the gradients."""
    accumulators: Dict[int, int] = {}
    if execution.gradient_accumulation == 1 and not execution.optimizer.combined_accumulator:
        return accumulators
    forward_and_backward = list(graph.ops)
    after: Dict[int, List[Op]] = {}
    for parameter, gradient in graph.gradients.items():
        total = _state(graph, parameter, "accumulator", execution.accumulator_element)
        accumulators[parameter] = total
        maker = producers[gradient]
        place = _place(maker, Phase.BACKWARD)
        made = graph.add("accumulate", (gradient, total), (), forward_of=maker.forward_of, **place)
        after.setdefault(maker.id, []).append(made)
    graph.ops = [kept for op in forward_and_backward for kept in (op, *after.get(op.id, ()))]
    return accumulators


def _update(graph: Graph, execution: Execution, parameter: int, total: int, maker: Op) -> None:
    place = _place(maker, Phase.UPDATE)
    optimizer = execution.optimizer
    if execution.replicas > 1:
        reduced = graph.like(total).id
        graph.add("all_reduce", (total,), (reduced,), {"in_place": True}, **place)
        total = reduced
    states = [
        _state(graph, parameter, f"state{index}", optimizer.state_element)
        for index in range(optimizer.states)
    ]
    attributes = {"optimizer": optimizer.name, "states": optimizer.states}
    graph.add("update", (parameter, total, *states), (), attributes, **place)


def _state(graph: Graph, parameter: int, prefix: str, element: Element) -> int:
    tensor = graph.tensors[parameter]
    return graph.tensor(tensor.shape, element, Role.STATE, f"{prefix}/{tensor.name}").id


def _place(op: Op, phase: Phase) -> Dict[str, Any]:
    return {"scope": op.scope, "stage": op.stage, "ipu": op.ipu, "phase": phase}
