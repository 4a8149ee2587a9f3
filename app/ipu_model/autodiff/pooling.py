"""Gradients of pooling and resizing."""

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op

__all__ = ["max_pool", "sampling"]


@gradient("max_pool")
def max_pool(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/maxpool.cpp: operand and result say where each maximum was."""
    (x,) = op.inputs
    operands = (x, op.outputs[0], dy)
    (dx,) = growth.emit_like("max_pool_grad", operands, (x,), op.attributes)
    growth.give(x, dx)


@gradient("avg_pool", "resize")
def sampling(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/averagepool.cpp, resize.cpp: the operand's values do not matter."""
    x = op.inputs[0]
    attributes = {**op.attributes, "field": growth.shape(x)[2:]}
    (dx,) = growth.emit_like(f"{op.kind}_grad", (dy,), (x,), attributes)
    growth.give(x, dx)
