"""Inner loops of PopLibs' elementwise vertices (lib/popops/popopsCycleEstimators.cpp and .hpp).

An entry is (cycles, elements): so many worker cycles for so many elements. 0 elements stands for
the natural vector of the type. PopLibs names its operations in capitals; the names here are
torch's.
"""

from typing import Dict, Optional, Tuple

from app.ipu_model.graph import Element

__all__ = ["ALIASES", "BINARY_LOOPS", "COMPARISONS", "UNARY_LOOPS", "Loop", "TypedLoops", "loop"]

Loop = Tuple[int, int]
TypedLoops = Dict[Element, Loop]

_VECTOR = 0


def _typed(half: Loop, full: Loop, integer: Optional[Loop] = None) -> TypedLoops:
    made = {Element.HALF: half, Element.FLOAT: full}
    if integer is not None:
        made[Element.INT32] = integer
    return made


def _compare(integer: int, half: int = 9, full: int = 14, boolean: int = 28) -> TypedLoops:
    made = _typed((half, 4), (full, 4), (integer, 4))
    made[Element.BOOL] = (boolean, 4)
    return made


_ARITHMETIC = _typed((3, _VECTOR), (3, _VECTOR), (7, 1))
_EXTREME = _typed((4, 4), (3, 2), (7, 1))
_LOGICAL = {Element.BOOL: (5, 4), **_typed((9, 4), (14, 4), (7, 1))}

BINARY_LOOPS: Dict[str, TypedLoops] = {
    "add": _ARITHMETIC,
    "sub": _ARITHMETIC,
    "mul": _ARITHMETIC,
    "div": _typed((21, 4), (10, 2), (277, 1)),
    "max": _EXTREME,
    "min": _EXTREME,
    "pow": _typed((325, 1), (312, 1)),
    "remainder": _typed((300, 4), (133, 2), (292, 1)),
    "atan2": _typed((578, 4), (272, 2)),
    "eq": _compare(22, boolean=6),
    "ne": _compare(22, 11, 20, boolean=5),
    "lt": _compare(22),
    "gt": _compare(22, boolean=31),
    "le": _compare(26),
    "ge": _compare(26),
    "and": _LOGICAL,
    "or": _LOGICAL,
    "xor": _LOGICAL,
    "shift": {Element.INT32: (7, 1)},
}
COMPARISONS = frozenset({"eq", "ne", "lt", "gt", "le", "ge"})

# (out of place, in place). What PopLibs gives without a vector of its own has 4 cycles of loop
# overhead on top, which are included here.
UNARY_LOOPS: Dict[str, Tuple[TypedLoops, TypedLoops]] = {
    name: (loops[0], loops[-1])
    for name, loops in {
        "abs": (_typed((5, 1), (5, 1), (6, 1)), _typed((5, _VECTOR), (5, _VECTOR), (6, 1))),
        "asin": (_typed((106, 1), (106, 1)),),
        "bitwise_not": (_typed((5, _VECTOR), (5, _VECTOR), (5, _VECTOR)),),
        "cbrt": (_typed((21, _VECTOR), (31, _VECTOR)),),
        "ceil": (_typed((6, _VECTOR), (6, _VECTOR)),),
        "clamp": (_typed((2, _VECTOR), (2, _VECTOR), (7, 1)),),
        "cos": (_typed((26, 1), (2304, 1)),),
        "erf": (_typed((16, 1), (18, 1)),),
        "exp": (_typed((4, 4), (6, 2)),),
        "expm1": (_typed((9, _VECTOR), (8, 1)),),
        "floor": (_typed((6, _VECTOR), (6, _VECTOR)),),
        "isfinite": (_typed((9, _VECTOR), (9, _VECTOR)),),
        "isinf": (_typed((9, _VECTOR), (7, _VECTOR)),),
        "isnan": (_typed((7, _VECTOR), (7, _VECTOR)),),
        "log": (_typed((4, 4), (12, 2)), _typed((6, 4), (14, 2))),
        "log1p": (_typed((184, _VECTOR), (184, _VECTOR)),),
        "logical_not": (_typed((21, 1), (21, 1), (21, 1)),),
        "neg": (_typed((2, 4), (2, 2), (6, 1)), _typed((3, 4), (3, 2), (6, 1))),
        "reciprocal": (_typed((15, 4), (6, 2)),),
        "relu": (_typed((3, 4), (3, 2)), _typed((2, 4), (2, 2))),
        "round": (_typed((6, _VECTOR), (6, _VECTOR)),),
        "rsqrt": (_typed((19, 4), (8, 2)),),
        "sigmoid": (_typed((6, 4), (12, 2)), _typed((4, 4), (10, 2))),
        "sign": (_typed((9, _VECTOR), (9, _VECTOR), (9, 1)),),
        "sin": (_typed((26, 1), (2304, 1)),),
        "sqrt": (_typed((23, 4), (10, 2), (114, 1)),),
        "square": (_typed((2, 4), (2, 2), (5, _VECTOR)),),
        "tan": (_typed((5700, 1), (5100, 1)),),
        "tanh": (_typed((4, 4), (12, 2)), _typed((2, 4), (10, 2))),
    }.items()
}

ALIASES = {
    "acos": "asin",
    "atan": "asin",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
    "clip": "clamp",
    "divide": "div",
    "equal": "eq",
    "floor_divide": "div",
    "fmax": "max",
    "fmin": "min",
    "fmod": "remainder",
    "greater": "gt",
    "greater_equal": "ge",
    "hardtanh": "clamp",
    "inverse": "reciprocal",
    "less": "lt",
    "less_equal": "le",
    "logical_and": "and",
    "logical_or": "or",
    "logical_xor": "xor",
    "maximum": "max",
    "minimum": "min",
    "multiply": "mul",
    "not": "logical_not",
    "not_equal": "ne",
    "relu6": "clamp",
    "rsub": "sub",
    "shift_left": "shift",
    "shift_right": "shift",
    "subtract": "sub",
    "swish": "silu",
    "trunc": "floor",
    "truediv": "div",
}


def loop(loops: TypedLoops, element: Element, width: int) -> Loop:
    """The loop for a type; types without one are computed as 32-bit numbers, one at a time."""
    found = loops.get(element)
    if found is None:
        cycles, elements = loops.get(Element.INT32, loops.get(Element.FLOAT, (7, 1)))
        return cycles, elements or 1
    return found[0], found[1] or width
