"""Shapes and types of frequent operations' results, on tensors without data.

torch works most of them out in Python, for which it imports its compiler: a second or two at the
start of every simulation. What is not here, or has unusual arguments, is left to torch.
"""

from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

__all__ = ["known_result"]

aten = torch.ops.aten
Args = Tuple[Any, ...]
Shape = Sequence[int]


def known_result(func: Any, args: Args, kwargs: Mapping[str, Any]) -> Optional[Any]:
    """The result of an operation, or None if torch is to be asked."""
    rule = _RULES.get(func)
    if rule is None or kwargs or not args:
        return None
    return rule(*args)


def _made(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _like(x: Tensor, *_: Any) -> Optional[Tensor]:
    return _made(x.shape, x.dtype) if x.is_floating_point() else None


def _broadcast(*operands: Any) -> Optional[Tensor]:
    """Elementwise on floating tensors and numbers."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    types = {tensor.dtype for tensor in tensors}
    if len(types) != 1 or not tensors[0].is_floating_point():
        return None
    if any(isinstance(operand, complex) for operand in operands):
        return None
    return _made(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)), tensors[0].dtype)


def _reduced(x: Tensor, dims: Any, keepdim: bool = False) -> Optional[Tensor]:
    if not x.is_floating_point():
        return None
    rank = x.dim()
    chosen = {dim % rank for dim in dims} if dims else set(range(rank))
    sizes = [1 if dim in chosen else size for dim, size in enumerate(x.shape)]
    kept = sizes if keepdim else [size for dim, size in enumerate(sizes) if dim not in chosen]
    return _made(kept, x.dtype)


def _reduced_to_one(x: Tensor) -> Optional[Tensor]:
    return _made((), x.dtype) if x.is_floating_point() else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    return _made((a.shape[0], b.shape[1]), a.dtype)


def _product_and_bias(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _product(a, b)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    transposed: bool,
    *_: Any,
) -> Optional[Tensor]:
    dims = x.dim() - 2
    if transposed or {len(stride), len(padding), len(dilation)} != {dims}:
        return None
    field = [
        (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
        for size, pad, spread, taps, step in zip(
            x.shape[2:], padding, dilation, weight.shape[2:], stride
        )
    ]
    return _made((x.shape[0], weight.shape[0], *field), x.dtype)


def _stacked(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(parts[0].shape)
    shape.insert(dim % (len(shape) + 1), len(parts))
    return _made(shape, parts[0].dtype)


def _compared(a: Any, b: Any) -> Tensor:
    shapes = [operand.shape for operand in (a, b) if isinstance(operand, Tensor)]
    return _made(torch.broadcast_shapes(*shapes), torch.bool)


def _index_of_largest(
    x: Tensor, dim: Optional[int] = None, keepdim: bool = False
) -> Optional[Tensor]:
    if dim is None or keepdim:
        return None
    return _made((size for at, size in enumerate(x.shape) if at != dim % x.dim()), torch.int64)


def _nll_loss(
    log_probabilities: Tensor, target: Tensor, weight: Any, reduction: int, ignore_index: int
) -> Tuple[Tensor, Tensor]:
    losses = target.shape if reduction == 0 else ()
    return _made(losses, log_probabilities.dtype), _made((), log_probabilities.dtype)


def _group_norm(x: Tensor, weight: Any, bias: Any, batch: int, *sizes: Any) -> Tuple[Tensor, ...]:
    statistics = (batch, sizes[2])
    return _made(x.shape, x.dtype), _made(statistics, x.dtype), _made(statistics, x.dtype)


_RULES: Dict[Any, Callable[..., Any]] = {
    **{
        op.default: _like
        for op in (aten.silu, aten.relu, aten.sigmoid, aten.tanh, aten.neg, aten.rsqrt, aten.exp)
    },
    **{op.Tensor: _broadcast for op in (aten.add, aten.sub, aten.mul, aten.div)},
    aten.addcmul.default: _broadcast,
    aten.pow.Tensor_Scalar: _broadcast,
    aten.sum.dim_IntList: _reduced,
    aten.mean.dim: _reduced,
    aten.sum.default: _reduced_to_one,
    aten.mean.default: _reduced_to_one,
    aten.mm.default: _product,
    aten.addmm.default: _product_and_bias,
    aten.convolution.default: _convolution,
    aten.stack.default: _stacked,
    aten.eq.Tensor: _compared,
    aten.argmax.default: _index_of_largest,
    aten._log_softmax.default: _like,
    aten.nll_loss_forward.default: _nll_loss,
    aten.nll_loss2d_forward.default: _nll_loss,
    aten.native_group_norm.default: _group_norm,
}
