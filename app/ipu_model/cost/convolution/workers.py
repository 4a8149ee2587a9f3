"""How the output of one tile is shared among its workers (poplibs ConvUtilInternal.cpp)."""

from typing import Callable, Tuple

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Mask", "PieceCost", "ceil_div", "floor_div", "most_and_least", "per_pair"]

Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
PieceCost = Callable[[Array], Array]


def ceil_div(numerator: "Array | int", denominator: "Array | int") -> Array:
    """Ceiling division of non-negative integers below 2**53, where the float quotient is exact.

    If the divisor does not divide, the quotient is at least 1 / divisor away from an integer, more
    than its rounding error. NumPy divides floats several times faster than integers.
    """
    return np.asarray(np.ceil(np.true_divide(numerator, denominator))).astype(np.int64)


def floor_div(numerator: Array, denominator: "Array | int") -> Array:
    """Floor division under the same conditions."""
    quotient: Array = np.true_divide(numerator, denominator).astype(np.int64)
    return quotient


def most_and_least(
    rows: Array, length: Array, piece_cost: PieceCost, workers: int
) -> Tuple[Array, Array]:
    """Largest and smallest sum of `piece_cost` over a tile's workers.

    Worker i gets the elements from floor(i N / w) of the N = rows x length, cut at row ends.
    """
    total = rows * length
    index = np.arange(workers, dtype=np.int64)[:, None]
    start, end = index * total // workers, (index + 1) * total // workers
    first_row, last_row = floor_div(start, length), floor_div(np.maximum(end - 1, 0), length)
    whole = np.maximum(last_row - first_row - 1, 0)
    head = np.where(first_row == last_row, end - start, (first_row + 1) * length - start)
    tail = np.where(first_row == last_row, 0, end - last_row * length)
    # A worker without elements has head = tail = 0: the piece cost of nothing is nothing.
    cost = (
        np.where(head > 0, piece_cost(head), 0)
        + np.where(tail > 0, piece_cost(tail), 0)
        + whole * piece_cost(np.broadcast_to(length, total.shape))[None, :]
    )
    cost = np.where(end > start, cost, 0)
    return cost.max(axis=0), cost.min(axis=0)


def per_pair(
    rows: Array, length: Array, evaluate: Callable[[Array, Array], Tuple[Array, ...]]
) -> Tuple[Array, ...]:
    """Evaluate once for each distinct (rows, length): thousands of splits share a few shapes."""
    base = int(length.max(initial=0)) + 1
    keys, inverse = np.unique(rows * base + length, return_inverse=True)
    results = evaluate(keys // base, keys % base)
    return tuple(result[inverse] for result in results)
