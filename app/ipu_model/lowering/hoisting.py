"""Hoisting: operations on parameters alone run once per weight update.

Their gradients are linear in the gradients of what leaves them, so these are summed over the
micro-batches in accumulators and taken back through the hoisted operations once.
"""

from dataclasses import replace
from typing import Any, Dict, List, Set

from app.ipu_model.graph import Graph, Op, Phase, Role, Tensor
from app.ipu_model.lowering.editor import Editor
from app.ipu_model.program import Execution

__all__ = ["hoist_parameter_ops"]


def hoist_parameter_ops(graph: Graph, execution: Execution) -> Graph:
    """The graph with operations that derive from parameters and constants moved to the update.

    Their gradients come first in that phase, then the updates, then the operations themselves with
    the new parameters; results that outlive the phase become `Role.STATE`. Views, fills and
    casts of parameters follow their readers: they cost nothing, or would double the parameters.
    """
    return _Hoister(graph, execution).write()


class _Hoister:
    def __init__(self, graph: Graph, execution: Execution) -> None:
        self._graph = graph
        self._execution = execution
        self._editor = Editor(graph)
        self._light: Dict[int, Op] = {}
        self._hoisted: Set[int] = set()
        self._find_hoisted()
        self._late = self._find_late()
        self._accumulators: Dict[int, int] = {}

    def write(self) -> Graph:
        """Micro-batch, gradients of what is hoisted, updates, hoisted operations."""
        makers = self._graph.producers()
        late = [op for op in self._graph.ops if op.id in self._late]
        hoisted = [op for op in self._graph.ops if op.id in self._hoisted]
        updates = [op for op in self._graph.in_phase(Phase.UPDATE) if op.id not in self._late]
        border = self._border(late, makers)
        for op in self._graph.in_phase(Phase.FORWARD, Phase.BACKWARD):
            if op.id not in self._late and op.id not in self._hoisted:
                self._editor.keep(op)
                self._accumulate([id for id in op.outputs if id in border], op)
        self._move(late)
        for op in updates:
            self._editor.keep(op)
        self._move(hoisted)
        self._keep_results(hoisted)
        return self._editor.graph

    def _find_hoisted(self) -> None:
        derived = _steady(self._graph)
        for op in self._graph.in_phase(Phase.FORWARD):
            if (op.inputs or op.kind == "fill") and derived.issuperset(op.inputs):
                derived.update(op.outputs)
                if _is_light(op, self._graph.operands(op)):
                    self._light.update((id, op) for id in op.outputs)
                else:
                    self._hoisted.add(op.id)

    def _find_late(self) -> Set[int]:
        """Gradients of hoisted operations, and all that depends on these within the pass."""
        late: Set[int] = set()
        made: Set[int] = set()
        for op in self._graph.in_phase(Phase.BACKWARD):
            if op.forward_of in self._hoisted or not made.isdisjoint(op.inputs):
                late.add(op.id)
                made.update(op.outputs)
        return late

    def _border(self, late: List[Op], makers: Dict[int, Op]) -> Set[int]:
        """Gradients of every micro-batch that late operations read as one sum."""
        if self._execution.gradient_accumulation == 1:
            return set()
        read = (makers[id] for op in late for id in op.inputs if id in makers)
        made = {
            id
            for maker in read
            if maker.phase is Phase.BACKWARD and maker.id not in self._late
            for id in maker.outputs
        }
        return made & {id for op in late for id in op.inputs}

    def _accumulate(self, ids: List[int], maker: Op) -> None:
        for id in ids:
            shape, element = self._graph.tensors[id].shape, self._execution.accumulator_element
            name = f"accumulator/{maker.scope}"
            made = self._editor.graph.tensor(shape, element, Role.STATE, name)
            self._accumulators[id] = made.id
            place: Dict[str, Any] = {"scope": maker.scope, "stage": maker.stage, "ipu": maker.ipu}
            self._editor.make(
                "accumulate",
                [id, made.id],
                [],
                phase=Phase.BACKWARD,
                forward_of=maker.forward_of,
                **place,
            )

    def _move(self, ops: List[Op]) -> None:
        """Append operations to the update, with copies of light ones that they read."""
        copies = dict(self._accumulators)
        for op in ops:
            for light in self._light_before(op, copies):
                inputs = [copies.get(id, id) for id in light.inputs]
                made = self._editor.repeat(light, inputs, phase=Phase.UPDATE)
                copies.update(zip(light.outputs, made.outputs))
            inputs = [copies.get(id, id) for id in op.inputs]
            self._editor.keep(op, inputs, phase=Phase.UPDATE)

    def _light_before(self, op: Op, copies: Dict[int, int]) -> List[Op]:
        """Light operations that this one depends on and that have no copies, in order."""
        found: List[Op] = []
        for id in op.inputs:
            light = self._light.get(id)
            if light is not None and id not in copies and light not in found:
                found += [
                    other for other in self._light_before(light, copies) if other not in found
                ]
                found.append(light)
        return found

    def _keep_results(self, hoisted: List[Op]) -> None:
        inside = {op.id for op in hoisted}
        tensors = self._editor.graph.tensors
        outside = set(self._graph.outputs)
        for op in self._editor.graph.ops:
            if op.id not in inside:
                outside.update(op.inputs)
        for op in hoisted:
            for id in op.outputs:
                if id in outside:
                    tensors[id] = replace(tensors[id], role=Role.STATE)


def _steady(graph: Graph) -> Set[int]:
    """Tensors that only a weight update changes, if anything: all but the running statistics of
    norms among parameters, constants and buffers."""
    roots = (Role.PARAMETER, Role.CONSTANT, Role.BUFFER)
    steady = {id for id, tensor in graph.tensors.items() if tensor.role in roots}
    for op in graph.in_phase(Phase.FORWARD):
        if op.kind == "batch_norm" and op.attributes.get("training"):
            buffers = (tensor for tensor in graph.operands(op) if tensor.role is Role.BUFFER)
            steady.difference_update(tensor.id for tensor in buffers)
    return steady


def _is_light(op: Op, operands: List[Tensor]) -> bool:
    if op.kind == "cast":
        return operands[0].role is Role.PARAMETER
    return op.kind in ("view", "fill")
