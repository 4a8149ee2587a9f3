"""One operation in a graph of its own, and what it costs."""

from dataclasses import replace
from typing import Any, Sequence, Tuple

from app.ipu_model.calibration import Calibrated, OpCalibration, calibration
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.rules import op_cost
from app.ipu_model.graph import Element, Graph, Op, Role
from tests.ipu_model.cost.presets import MK2

HALF, FLOAT, INT32, BOOL = Element.HALF, Element.FLOAT, Element.INT32, Element.BOOL

Shape = Tuple[int, ...]


def _fixed(value: float) -> Calibrated:
    return Calibrated(value, value, value, "test", 0.0)


# Formulas as PopLibs has them, 100 cycles for each compute set, 1000 for each reduction.
UNIT = OpCalibration(
    cs_overhead=_fixed(100),
    elementwise_scale=_fixed(1),
    reduce_scale=_fixed(1),
    reduce_fixed=_fixed(1000),
    cs_code_bytes=_fixed(64),
    cs_control_bytes=_fixed(10),
)


def context(tiles: int = 1472, constants: OpCalibration = UNIT) -> CostContext:
    """A Mk2 IPU, or one with so many tiles."""
    return CostContext(replace(MK2, tiles=tiles), replace(calibration("mk2"), op=constants))


ON_MK2 = context()


def single(
    kind: str,
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
    elements: Sequence[Element] = (),
    element: Element = HALF,
    role: Role = Role.ACTIVATION,
    **attributes: Any,
) -> Tuple[Graph, Op]:
    """An operation on tensors of these shapes; `elements` are the types of the first of them, and
    `element` that of the rest."""
    graph = Graph()
    shapes = [*inputs, *outputs]
    types = [*elements, *[element] * (len(shapes) - len(elements))]
    ids = [graph.tensor(*made, role).id for made in zip(shapes, types)]
    op = graph.add(kind, ids[: len(inputs)], ids[len(inputs) :], attributes)
    return graph, op


def cost(
    kind: str,
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
    on: CostContext = ON_MK2,
    **details: Any,
) -> Cost:
    """What `single` costs."""
    graph, op = single(kind, inputs, outputs, **details)
    return op_cost(graph, op, on)
