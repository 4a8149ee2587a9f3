"""Small graphs and neutral constants for the tests of memory."""

from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from app.ipu_model.calibration import Calibrated, Calibration, MemoryCalibration, calibration
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.target_view import PlannerTarget
from app.ipu_model.graph import Element, Graph, Op, Phase, Role
from app.ipu_model.memory import IpuMemory, measure
from app.ipu_model.program import Execution

REGION0_BYTES = 212992
# transfers use tiles of their own, so that no buffers stand beside the tensors
PLAIN = Execution(io_tiles=32)


def _value(value: float) -> Calibrated:
    return Calibrated(value, value, value, "chosen by a test", 0.0)


def constants(
    scale: float = 1.0,
    gaps: float = 0.0,
    control: float = 0.0,
    unshared: float = 1.0,
    executable: float = 1.0,
) -> Calibration:
    """Constants that change nothing unless they are asked to."""
    fitted = calibration("mk2")
    values = (scale, gaps, control, unshared, executable)
    return replace(fitted, memory=MemoryCalibration(*map(_value, values)))


NEUTRAL = constants()


def target(tiles: int = 1) -> PlannerTarget:
    """A Mk2 with so many tiles; on a single one all bytes meet."""
    return PlannerTarget(tiles, 638976, 1.33e9, 16, 8, 16)


def memories(
    graph: Graph,
    execution: Execution = PLAIN,
    tiles: int = 1,
    costs: Optional[Dict[int, Cost]] = None,
    calibrated: Calibration = NEUTRAL,
) -> Tuple[IpuMemory, ...]:
    """All IPUs, measured; operations without a cost given are free."""
    every = {op.id: Cost() for op in graph.ops}
    every.update(costs or {})
    return measure(graph, every, execution, target(tiles), REGION0_BYTES, calibrated)


class Sketch(Graph):
    """A graph that is quick to draw: half tensors, named by their ids."""

    def load(self, elements: int, **place: Any) -> int:
        """An input, loaded from the host."""
        made = self.tensor((elements,), Element.HALF, Role.INPUT).id
        self.inputs.append(made)
        self.add("host_load", (), (made,), **place)
        return made

    def run(
        self,
        inputs: Iterable[int],
        shape: Sequence[int],
        kind: str = "binary",
        attributes: Optional[Dict[str, Any]] = None,
        **place: Any,
    ) -> int:
        """The result of an operation."""
        made = self.tensor(shape, Element.HALF).id
        self.add(kind, inputs, (made,), attributes, **place)
        return made

    def parameter(self, *shape: int) -> int:
        """A weight."""
        return self.tensor(shape, Element.HALF, Role.PARAMETER).id

    def state(self, *shape: int) -> int:
        """Float32 that outlives the micro-batch."""
        return self.tensor(shape, Element.FLOAT, Role.STATE).id


def chain(length: int, elements: int, segment: int = 1) -> Sketch:
    """Forward operations in a row whose inputs their gradients read.

    Every `segment`-th tensor is kept; those between are computed again before the gradients of
    their segment. With a segment of one all are kept.
    """
    graph, shape = Sketch(), (elements,)
    made = [graph.load(elements)]
    for _ in range(length):
        made.append(graph.run([made[-1]], shape, "unary"))
    gradient = graph.run([made[-1]], shape, "unary", phase=Phase.BACKWARD)
    for start in range(length - segment, -1, -segment):
        again: List[int] = [made[start]]
        for _ in range(segment - 1):
            again.append(graph.run([again[-1]], shape, "unary", phase=Phase.RECOMPUTE))
        for kept in reversed(again):
            gradient = graph.run([gradient, kept], shape, "unary_grad", phase=Phase.BACKWARD)
    return graph


def op_of(graph: Graph, kind: str) -> Op:
    """The only operation of a kind."""
    (found,) = (op for op in graph.ops if op.kind == kind)
    return found
