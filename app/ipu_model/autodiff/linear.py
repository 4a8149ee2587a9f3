"""Gradients of convolutions and matrix products."""

from typing import Any, Dict, Tuple

import numpy as np

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op

__all__ = ["conv", "matmul"]


@gradient("conv", "conv_transpose")
def conv(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/convbase.cpp, conv.cpp, convtranspose.cpp: a data and a weight
    gradient; the first convolution of a network needs only the latter."""
    x, w = op.inputs
    field, kernel = growth.shape(x)[2:], growth.shape(w)[2:]
    if growth.wants(x):
        attributes = {**op.attributes, "field": field}
        (dx,) = growth.emit_like(f"{op.kind}_data_grad", (dy, w), (x,), attributes)
        growth.give(x, dx)
    if growth.wants(w):
        attributes = {**op.attributes, "kernel": kernel}
        (dw,) = growth.emit_like(f"{op.kind}_weight_grad", (x, dy), (w,), attributes)
        growth.give(w, dw)


@gradient("matmul")
def matmul(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/patterns/matmulgradpattern.cpp: products with the other operand transposed,
    summed over the dimensions of the batch that were broadcast."""
    a, b = op.inputs
    if growth.wants(a):
        attributes = {**op.attributes, "pass": "data_grad"}
        _give_product(growth, a, (dy, _transposed(growth, b)), attributes)
    if growth.wants(b):
        attributes = {**op.attributes, "pass": "weight_grad"}
        _give_product(growth, b, (_transposed(growth, a), dy), attributes)


def _transposed(growth: Growth, x: int) -> int:
    rank = len(growth.shape(x))
    return growth.permuted(x, (*range(rank - 2), rank - 1, rank - 2))


def _give_product(
    growth: Growth, operand: int, factors: Tuple[int, int], attributes: Dict[str, Any]
) -> None:
    left, right = (growth.shape(factor) for factor in factors)
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    product = growth.emit("matmul", factors, (*batch, left[-2], right[-1]), attributes)
    growth.give(operand, growth.summed_to(product, growth.shape(operand)))
