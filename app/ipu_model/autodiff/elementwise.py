"""Gradients of elementwise operations.

Where popart's patterns turn a gradient into simpler operations (willow/src/patterns/, named at the
rules), these grow; the others are one `unary_grad`, as they are one vertex in PopLibs.
"""

from math import log
from typing import Callable, Dict, Tuple

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Element, Op
from app.ipu_model.missing import MissingRule

__all__ = ["binary", "cast", "select", "unary"]

LOG_2, LOG_10 = log(2), log(10)

_FILE = "app/ipu_model/autodiff/elementwise.py"

# popart willow/src/op/NAME.cpp says whether the gradient operation reads the result or the operand
FROM_RESULT = ("relu", "relu6", "hardtanh", "clamp", "sigmoid", "tanh")
FROM_OPERAND = (
    "silu",
    "gelu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "elu",
    "leaky_relu",
    "softplus",
    "erf",
    "asin",
    "acos",
    "atan",
    "log_sigmoid",
)


def _reciprocal(growth: Growth, x: int, y: int, dy: int) -> int:
    slope = growth.unary("neg", growth.unary("reciprocal", growth.unary("square", x)))
    return growth.binary("mul", dy, slope)


# functions of growth, x, y and dy
SIMPLE_UNARY: Dict[str, Callable[[Growth, int, int, int], int]] = {
    "neg": lambda growth, x, y, dy: growth.unary("neg", dy),
    "abs": lambda growth, x, y, dy: growth.binary("mul", dy, growth.unary("sign", x)),
    "exp": lambda growth, x, y, dy: growth.binary("mul", dy, y),
    "exp2": lambda growth, x, y, dy: growth.binary("mul", dy, growth.scaled("mul", y, LOG_2)),
    "expm1": lambda growth, x, y, dy: growth.binary("mul", dy, growth.scaled("add", y, 1.0)),
    "log1p": lambda growth, x, y, dy: growth.binary("div", dy, growth.scaled("add", x, 1.0)),
    "log2": lambda growth, x, y, dy: growth.binary("div", dy, growth.scaled("mul", x, LOG_2)),
    "log10": lambda growth, x, y, dy: growth.binary("div", dy, growth.scaled("mul", x, LOG_10)),
    "log": lambda growth, x, y, dy: growth.binary("div", dy, x),
    "sqrt": lambda growth, x, y, dy: growth.binary("div", growth.scaled("mul", dy, 0.5), y),
    "square": lambda growth, x, y, dy: growth.binary("mul", dy, growth.scaled("mul", x, 2.0)),
    "reciprocal": _reciprocal,
    "sin": lambda growth, x, y, dy: growth.binary("mul", dy, growth.unary("cos", x)),
    "cos": lambda growth, x, y, dy: growth.binary(
        "mul", dy, growth.unary("neg", growth.unary("sin", x))
    ),
    "tan": lambda growth, x, y, dy: growth.binary(
        "mul", dy, growth.scaled("add", growth.unary("square", y), 1.0)
    ),
    "sinh": lambda growth, x, y, dy: growth.binary("mul", dy, growth.unary("cosh", x)),
    "cosh": lambda growth, x, y, dy: growth.binary("mul", dy, growth.unary("sinh", x)),
}


@gradient("unary")
def unary(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/patterns/: exp, expm1, log, log1p, sqrt, reciprocal, sin, cosgradoppattern
    and elementwisegradoppattern; a square is a product of its operand and itself."""
    x, y = op.inputs[0], op.outputs[0]
    if op.function in SIMPLE_UNARY:
        growth.give(x, SIMPLE_UNARY[op.function](growth, x, y, dy))
    elif op.function in FROM_RESULT + FROM_OPERAND:
        saved = y if op.function in FROM_RESULT else x
        growth.give(x, growth.emit("unary_grad", (dy, saved), growth.shape(x), op.attributes))
    else:
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)


def _by_second(growth: Growth, function: str, x: int, op: Op) -> int:
    """A function of a tensor and the operation's second operand, which may be a number."""
    if "scalar" in op.attributes:
        return growth.scaled(function, x, op.attributes["scalar"])
    return growth.binary(function, x, op.inputs[1])


def _div_second(growth: Growth, op: Op, dy: int) -> int:
    a, b = op.inputs
    slope = growth.unary("neg", growth.binary("div", a, growth.unary("square", b)))
    return growth.binary("mul", dy, slope)


def _pow_first(growth: Growth, op: Op, dy: int) -> int:
    a = op.inputs[0]
    if "scalar" in op.attributes:
        power = op.attributes["scalar"]
        lower = a if power == 2 else growth.scaled("pow", a, power - 1)
        return growth.binary("mul", dy, growth.scaled("mul", lower, power))
    power = op.inputs[1]
    lower = growth.binary("pow", a, growth.scaled("sub", power, 1.0))
    return growth.binary("mul", dy, growth.binary("mul", power, lower))


def _pow_second(growth: Growth, op: Op, dy: int) -> int:
    slope = growth.binary("mul", growth.unary("log", op.inputs[0]), op.outputs[0])
    return growth.binary("mul", dy, slope)


def _mod_second(rounding: str) -> "BinaryGradient":
    """popart willow/src/patterns/fmodarg0gradoppattern.cpp has the first operand's only."""

    def grow(growth: Growth, op: Op, dy: int) -> int:
        count = growth.unary(rounding, growth.binary("div", *op.inputs))
        return growth.binary("mul", dy, growth.unary("neg", count))

    return grow


def _where(comparison: str, holds: bool) -> "BinaryGradient":
    """The gradient passes where the comparison of the operands holds, or where it does not."""

    def grow(growth: Growth, op: Op, dy: int) -> int:
        attributes = {**op.attributes, "function": comparison}
        shape = growth.shape(op.outputs[0])
        condition = growth.emit("binary", op.inputs, shape, attributes, Element.BOOL)
        zero = growth.fill(0.0, (), growth.element(dy))
        return growth.selected(condition, *((dy, zero) if holds else (zero, dy)))

    return grow


BinaryGradient = Callable[[Growth, Op, int], int]

# functions of growth, op and dy, one for each operand
BINARY: Dict[str, Tuple[BinaryGradient, BinaryGradient]] = {
    "add": (lambda growth, op, dy: dy, lambda growth, op, dy: dy),
    "sub": (lambda growth, op, dy: dy, lambda growth, op, dy: growth.unary("neg", dy)),
    "mul": (
        lambda growth, op, dy: _by_second(growth, "mul", dy, op),
        lambda growth, op, dy: growth.binary("mul", dy, op.inputs[0]),
    ),
    "div": (lambda growth, op, dy: _by_second(growth, "div", dy, op), _div_second),
    "pow": (_pow_first, _pow_second),
    "fmod": (lambda growth, op, dy: dy, _mod_second("trunc")),
    "remainder": (lambda growth, op, dy: dy, _mod_second("floor")),
    "maximum": (_where("ge", True), _where("ge", False)),
    "minimum": (_where("le", True), _where("le", False)),
}


@gradient("binary")
def binary(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/patterns/: sub, mul, div, powarg*gradoppattern; the reduction over
    broadcast dimensions comes last, as there."""
    if op.function not in BINARY:
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)
    for operand, grow in zip(op.inputs, BINARY[op.function]):
        if growth.wants(operand):
            made = grow(growth, op, dy)
            growth.give(operand, growth.summed_to(made, growth.shape(operand)))


@gradient("select")
def select(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/where.cpp."""
    condition, a, b = op.inputs
    zero = growth.fill(0.0, (), growth.element(dy))
    for operand, choice in ((a, (dy, zero)), (b, (zero, dy))):
        if growth.wants(operand):
            made = growth.selected(condition, *choice)
            growth.give(operand, growth.summed_to(made, growth.shape(operand)))


@gradient("cast")
def cast(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/cast.cpp: a cast back, which giving does."""
    growth.give(op.inputs[0], dy)
