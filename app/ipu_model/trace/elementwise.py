"""Translation of elementwise operations, casts of their operands, and what fills a tensor."""

from typing import Any, Dict, Tuple, Union

import torch

from app.ipu_model.graph import Element
from app.ipu_model.trace.call import Call, Number, Results, element_of, rule

# arguments of torch that become attributes, by function
_UNARY_ATTRIBUTES: Dict[str, Dict[str, str]] = {
    "elu": {"alpha": "alpha"},
    "leaky_relu": {"negative_slope": "negative_slope"},
    "softplus": {"beta": "beta", "threshold": "threshold"},
    "gelu": {"approximate": "approximate"},
}
_UNARY = (
    "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfinv", "exp", "exp2", "expm1",
    "floor", "frac", "hardsigmoid", "hardswish", "isinf", "isnan", "log", "log10", "log1p", "log2",
    "log_sigmoid", "logical_not", "mish", "neg", "reciprocal", "relu", "round", "sigmoid",
    "sign", "silu", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc", *_UNARY_ATTRIBUTES,
)  # fmt: skip
_ARITHMETIC = ("mul", "div", "remainder", "fmod", "maximum", "minimum", "atan2", "floor_divide")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor")
# powers that popart's patterns turn into operations of their own, one after the other
_POWERS = {2.0: ("square",), 0.5: ("sqrt",), -0.5: ("sqrt", "reciprocal"), -1.0: ("reciprocal",)}

_Operand = Union[int, Number]


@rule(*_UNARY)
def _unary(call: Call) -> Results:
    names = _UNARY_ATTRIBUTES.get(call.name, {})
    attributes = {ours: call.get(theirs) for ours, theirs in names.items()}
    x = call.id("self")
    if call.type.floating:
        x = call.to.cast(x, call.type)
    return call.emit("unary", (x,), function=call.name, **attributes)


@rule("rsqrt")
def _rsqrt(call: Call) -> Results:
    """Two operations (poptorch source/popart_canonicalization/UnaryOps.cpp)."""
    root = call.to.unary("sqrt", call.to.cast(call.id("self"), call.type))
    return call.to.unary("reciprocal", root)


@rule("bitwise_not")
def _bitwise_not(call: Call) -> Results:
    function = "logical_not" if call.type is Element.BOOL else "bitwise_not"
    return call.emit("unary", (call.id("self"),), function=function)


@rule("clamp", "hardtanh", "clamp_min", "clamp_max", "relu6")
def _clamp(call: Call) -> Results:
    low, high = call.get("min", "min_val"), call.get("max", "max_val")
    x = call.to.cast(call.id("self"), call.type)
    for bound, function in ((low, "maximum"), (high, "minimum")):
        if isinstance(bound, torch.Tensor):
            x = call.to.binary(function, x, call.to.cast(call.id_of(bound), call.type))
    low, high = (None if isinstance(b, torch.Tensor) else b for b in (low, high))
    if low is None and high is None:
        return x
    return call.to.unary("clamp", x, minimum=low, maximum=high)


@rule("threshold")
def _threshold(call: Call) -> Results:
    to, x = call.to, call.id("self")
    above = to.emit(
        "binary", (x,), call.shape, Element.BOOL, function="gt", scalar=call.get("threshold")
    )
    return call.emit("select", (above, x, to.fill(call.get("value"), (), call.type)))


def _as_tensor(call: Call, name: str, type: Element) -> int:
    """Id of an operand in a type; a number becomes a constant."""
    value = call.get(name)
    if isinstance(value, torch.Tensor):
        return call.to.cast(call.id_of(value), type)
    return call.to.fill(value, (), type)


def _operands(call: Call, names: Tuple[str, str], type: Element) -> Tuple[int, _Operand]:
    """Ids of the operands, cast to one type as popart's binary operations need them; a number
    stays one only where the operation can take it, in second place."""
    first, second = names
    value = call.get(second)
    if isinstance(value, torch.Tensor):
        return _as_tensor(call, first, type), _as_tensor(call, second, type)
    return _as_tensor(call, first, type), Number(value)


def _emit_binary(call: Call, function: str, a: int, b: _Operand) -> int:
    if isinstance(b, Number):
        return call.emit("binary", (a,), function=function, scalar=b.value)
    return call.emit("binary", (a, b), function=function)


@rule(*_ARITHMETIC, "fmax", "fmin", *_BITWISE)
def _arithmetic(call: Call) -> Results:
    a, b = _operands(call, ("self", "other"), call.type)
    if call.name == "div":
        return _divided(call, a, b)
    if call.name == "mul" and isinstance(b, int):
        for factor, other in ((a, b), (b, a)):
            if _is_one(call, factor) and call.shape_of(other) == call.shape:
                return other
    return _emit_binary(call, call.name, a, b)


def _divided(call: Call, a: int, b: _Operand) -> int:
    rounding = call.get("rounding_mode")
    if isinstance(b, Number) and rounding is None and _changes_nothing(call, a, b.value):
        return a
    quotient = _emit_binary(call, "div", a, b)
    return quotient if rounding is None else call.to.unary(rounding, quotient)


def _is_one(call: Call, id: int) -> bool:
    """Whether every element is 1, such as of the mask of a dropout that drops nothing."""
    made = call.to.producers.get(id)
    return made is not None and made.kind == "fill" and made.attributes["value"] == 1


def _changes_nothing(call: Call, id: int, divisor: Any) -> bool:
    """Whether the divisor is 1, or a dropout mask's survival rate: torch scales the mask in a pass
    of its own, PopLibs where it draws (lib/poprand, dropout)."""
    made = call.to.producers.get(id)
    return divisor == 1 or (
        made is not None
        and made.function == "bernoulli"
        and made.attributes.get("probability") == divisor
    )


@rule("add", "sub", "rsub")
def _sum(call: Call) -> Results:
    """a + alpha·b, or minus; popart has no such product within a sum, except with numbers."""
    names = ("other", "self") if call.name == "rsub" else ("self", "other")
    a, b = _operands(call, names, call.type)
    alpha = call.get("alpha")
    if alpha not in (None, 1):
        factor = Number(alpha)
        b = Number(b.value * alpha) if isinstance(b, Number) else call.to.binary("mul", b, factor)
    return _emit_binary(call, "add" if call.name == "add" else "sub", a, b)


@rule("pow")
def _power(call: Call) -> Results:
    exponent = call.get("exponent")
    if isinstance(exponent, torch.Tensor):
        return _emit_binary(call, "pow", *_operands(call, ("self", "exponent"), call.type))
    x = call.to.cast(call.id("self"), call.type)
    if exponent == 1:
        return x
    if float(exponent) in _POWERS:
        for function in _POWERS[float(exponent)]:
            x = call.to.unary(function, x)
        return x
    return _emit_binary(call, "pow", x, Number(exponent))


@rule(*_COMPARISONS)
def _comparison(call: Call) -> Results:
    values = [call.get("self"), call.get("other")]
    if call.name.startswith("logical"):
        type = Element.BOOL
    else:
        type = element_of(torch.result_type(*values))
    return _emit_binary(call, call.name, *_operands(call, ("self", "other"), type))


@rule("addcmul", "addcdiv")
def _add_product(call: Call) -> Results:
    """popart has no fused form either (poptorch source/popart_canonicalization/MathOps.cpp)."""
    to = call.to
    first, second = (to.cast(call.id(name), call.type) for name in ("tensor1", "tensor2"))
    product = to.binary("mul" if call.name == "addcmul" else "div", first, second)
    if call.get("value") != 1:
        product = to.binary("mul", product, Number(call.get("value")))
    return _emit_binary(call, "add", to.cast(call.id("self"), call.type), product)


@rule("where")
def _where(call: Call) -> Results:
    a, b = (_as_tensor(call, name, call.type) for name in ("self", "other"))
    return call.emit("select", (call.id("condition"), a, b))


@rule("masked_fill")
def _masked_fill(call: Call) -> Results:
    chosen = _as_tensor(call, "value", call.type)
    return call.emit("select", (call.id("mask"), chosen, call.id("self")))


@rule("fill", "zero")
def _fill(call: Call) -> Results:
    value = 0 if call.name == "zero" else call.get("value")
    if isinstance(value, torch.Tensor):
        return call.to.expanded(call.to.cast(call.id_of(value), call.type), call.shape)
    return call.to.fill(value, call.shape, call.type)


@rule("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided",
      "new_empty_strided")  # fmt: skip
def _zeros(call: Call) -> Results:
    """Memory that is not initialised is overwritten before it is read."""
    return call.to.fill(0, call.shape, call.type)


@rule("ones", "ones_like", "new_ones")
def _ones(call: Call) -> Results:
    return call.to.fill(1, call.shape, call.type)


@rule("full", "full_like", "new_full", "scalar_tensor")
def _full(call: Call) -> Results:
    return call.to.fill(call.get("fill_value", "s"), call.shape, call.type)


@rule("arange", "linspace", "eye", "tril_indices", "triu_indices")
def _constant(call: Call) -> Results:
    return call.to.constant(call.shape, call.type)


@rule("bernoulli")
def _bernoulli(call: Call) -> Results:
    probability = call.get("p")
    if probability == 1:
        return call.to.fill(1, call.shape, call.type)
    if isinstance(probability, float):
        return call.emit("random", (), function="bernoulli", probability=probability)
    source = call.id("p") if isinstance(probability, torch.Tensor) else call.id("self")
    return call.emit("random", (source,), function="bernoulli")


@rule("normal", "randn", "randn_like", "normal_functional")
def _normal(call: Call) -> Results:
    return call.emit("random", (), function="normal")


@rule("uniform", "rand", "rand_like", "random", "randint", "randint_like", "randperm")
def _uniform(call: Call) -> Results:
    return call.emit("random", (), function="uniform")


@rule("exponential")
def _exponential(call: Call) -> Results:
    return call.emit("random", (), function="exponential")


@rule("native_dropout")
def _dropout(call: Call) -> Results:
    x, rate = call.id("input"), call.get("p")
    if not call.get("train"):
        return [x, None]
    mask = call.emit("random", (), function="bernoulli", probability=1 - rate)
    return [call.to.binary("mul", x, mask), mask]
