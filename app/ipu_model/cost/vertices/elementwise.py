"""Vertices that compute element by element (PopLibs lib/popops/popopsCycleEstimators.cpp,
lib/popops/PerformanceEstimation.cpp; activations: lib/popnn/popnnCycleEstimators.cpp).

All return cycles of one tile: supervisor overhead, and the busiest worker's loop times the number
of workers.
"""

from typing import Dict, Tuple

from app.ipu_model.cost.layout import ceil_div, vector_width
from app.ipu_model.cost.vertices.tables import BINARY_LOOPS, UNARY_LOOPS, Loop, loop
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element

__all__ = [
    "activation_cycles",
    "activation_grad_cycles",
    "binary_cycles",
    "cast_cycles",
    "copy_cycles",
    "fill_cycles",
    "random_cycles",
    "scalar_binary_cycles",
    "scaled_add_cycles",
    "select_cycles",
    "unary_cycles",
]

_SUPERVISOR = 11
_IN_PLACE_BASE = 58

# Broadcast of one value: (cycles, elements) for half and float; other functions loop as `binary`.
_SCALAR_LOOPS: Dict[str, Tuple[Loop, Loop]] = {
    "add": ((2, 4), (2, 2)),
    "sub": ((2, 4), (2, 2)),
    "mul": ((2, 4), (2, 2)),
    "div": ((8, 2), (6, 2)),
    "variance_to_inv_std": ((24, 4), (12, 2)),
}

# Cycles that fill and drain the pipeline, and of each further vector, for half and float. Gelu's
# are those of its longer chain of the same instructions (lib/popnn/PerformanceEstimation.hpp).
_ACTIVATIONS: Dict[str, Tuple[Tuple[int, int], Tuple[int, int]]] = {
    "silu": ((3, 5), (6, 11)),
    "gelu": ((5, 10), (10, 20)),
}
_ACTIVATION_GRADS: Dict[str, Tuple[int, int]] = {
    "relu": (3, 3),
    "sigmoid": (3, 3),
    "tanh": (3, 3),
    "silu": (9, 15),
    "gelu": (18, 30),
}

# (elements, cycles) of the loop for each pair of types.
_CASTS: Dict[Tuple[Element, Element], Tuple[int, int]] = {
    (Element.HALF, Element.FLOAT): (2, 1),
    (Element.FLOAT, Element.HALF): (4, 2),
    (Element.UINT8, Element.HALF): (4, 9),
    (Element.UINT8, Element.FLOAT): (4, 10),
    (Element.INT8, Element.HALF): (4, 13),
    (Element.INT8, Element.FLOAT): (2, 7),
    (Element.HALF, Element.UINT8): (4, 16),
    (Element.HALF, Element.INT8): (4, 16),
    (Element.FLOAT, Element.UINT8): (4, 14),
    (Element.FLOAT, Element.INT8): (4, 14),
}


def _loop_cycles(work: TileWork, cycles: int, elements: int) -> int:
    return cycles * ceil_div(work.worker_elements, elements)


def binary_cycles(function: str, work: TileWork, in_place: bool = False) -> int:
    """Two operands of the same shape."""
    base = 26 if work.element is Element.HALF else 29
    looped = _loop_cycles(work, *loop(BINARY_LOOPS[function], work.element, work.width))
    return _SUPERVISOR + work.workers * ((_IN_PLACE_BASE if in_place else base) + looped)


def scalar_binary_cycles(function: str, work: TileWork) -> int:
    """One operand is a single value."""
    floating = {Element.HALF: 0, Element.FLOAT: 1}.get(work.element)
    if function in _SCALAR_LOOPS and floating is not None:
        step = _SCALAR_LOOPS[function][floating]
    else:
        step = loop(BINARY_LOOPS[function], work.element, work.width)
    return _SUPERVISOR + work.workers * (20 + _loop_cycles(work, *step))


def unary_cycles(function: str, work: TileWork, in_place: bool = False) -> int:
    """One operand; activations with vertices of their own are `activation_cycles`."""
    base = 55 if in_place else 33 if function == "exp" else 17
    loops = UNARY_LOOPS[function][in_place]
    looped = _loop_cycles(work, *loop(loops, work.element, work.width))
    return 20 + work.workers * (base + looped)


def activation_cycles(function: str, work: TileWork) -> int:
    """Swish and gelu, in place (NonLinearity1D)."""
    fill, step = _ACTIVATIONS[function][work.element is not Element.HALF]
    vectors = ceil_div(work.elements // work.width, work.workers)
    return 9 + work.workers * (27 + 2 * fill + step * max(vectors - 1, 0))


def activation_grad_cycles(function: str, work: TileWork) -> int:
    """Gradient of an activation from its output or input and the gradient (NonLinearityGrad1D)."""
    step = _ACTIVATION_GRADS[function][work.element is not Element.HALF]
    vectors = ceil_div(work.elements // work.width, work.workers)
    return 9 + work.workers * (31 + step * max(vectors - 1, 0))


def select_cycles(work: TileWork) -> int:
    """A condition chooses between two operands: 5 cycles an element."""
    return _SUPERVISOR + work.workers * (6 + 5 * work.worker_elements)


def cast_cycles(work: TileWork, result: Element) -> int:
    """From the type of the work to another; the remainder is taken at its longest.

    Conversions without an instruction of their own go element by element.
    """
    width, step = _CASTS.get((work.element, result), (1, 2))
    longest_tail = 3 * (width.bit_length() - 1)
    looped = step * (work.worker_elements // width) + longest_tail
    return 12 + work.workers * (18 + 19 + looped)


def fill_cycles(work: TileWork) -> int:
    """Write one value everywhere."""
    base = 26 if work.element is Element.HALF else 23
    return _SUPERVISOR + work.workers * (base + work.worker_vectors)


def copy_cycles(work: TileWork, bytes_per_cycle: int) -> int:
    """Move a contiguous run within the tile, at the rate of a memory copy."""
    return ceil_div(work.elements * work.element.bytes, bytes_per_cycle)


def scaled_add_cycles(work: TileWork, gradient: Element) -> int:
    """`accumulator += scale * gradient`; the work is the accumulator's.

    What does not fill a vector for each worker is taken at its longest, 19 cycles.
    """
    if gradient is work.element:
        step = 3
    else:
        step = 5 if vector_width(gradient) < work.width else 4
    return 63 + work.workers * (24 + step * (work.worker_vectors - 1) + 19)


# Instructions for a vector (PopLibs lib/poprand/poprandCycleEstimators.cpp).
_RANDOM_STEPS = {"bernoulli": 1, "normal": 2, "uniform": 3}
_RANDOM_OVERHEAD = 7 + 5 + 4 + 3 + 6


def random_cycles(function: str, work: TileWork) -> int:
    """Random numbers; what is not Bernoulli or normal is drawn uniformly."""
    step = _RANDOM_STEPS.get(function, _RANDOM_STEPS["uniform"])
    return _SUPERVISOR + work.workers * (_RANDOM_OVERHEAD + step * work.worker_vectors)
