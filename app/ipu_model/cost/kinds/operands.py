"""What the rules read of an operation: its tensors, and how they lie on the tiles."""

from typing import Container, Optional, Tuple

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.layout import ACTIVATION_GRAIN_BYTES, Layout
from app.ipu_model.graph import Graph, Op, Tensor
from app.ipu_model.missing import MissingRule

__all__ = ["first", "known", "layout_of", "result", "varying_axes"]


def first(graph: Graph, op: Op) -> Tensor:
    """The first operand."""
    return graph.tensors[op.inputs[0]]


def result(graph: Graph, op: Op) -> Tensor:
    """The first result."""
    return graph.tensors[op.outputs[0]]


def layout_of(
    context: CostContext,
    tensor: Tensor,
    inner_axis: Optional[int] = None,
    grain_bytes: int = ACTIVATION_GRAIN_BYTES,
) -> Layout:
    """A tensor over the IPU's tiles."""
    return Layout.of(tensor.shape, tensor.element, context.target.tiles, inner_axis, grain_bytes)


def varying_axes(small: Tensor, shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """Axes of `shape` along which a tensor broadcast to it varies."""
    offset = len(shape) - len(small.shape)
    return tuple(offset + axis for axis, size in enumerate(small.shape) if size > 1)


def known(function: str, functions: Container[str], op: Op, file: str) -> None:
    """Check that a rule knows the operation's function, by the name it has in PopLibs' tables.

    Raises:
        MissingRule: it does not.
    """
    if function not in functions:
        raise MissingRule(op.label, op.scope, file)
