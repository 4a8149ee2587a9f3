"""Half precision on a CPU whose torch may have no half kernels.

Every operation on half tensors is computed in float32 and its result rounded to half, forward and
backward, as an IPU rounds what its float32 partials add up to. Operations that only move values or
look at them differently run as they are. Which dtype results is what torch's promotion says.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Rounding = Callable[[torch.Tensor], torch.Tensor]

_FLOATS = (torch.float16, torch.float32, torch.float64)
# values are moved, not computed: half kernels exist everywhere, rounding would be the identity
_MOVES = frozenset({
    "_to_copy", "_unsafe_view", "cat", "clone", "copy", "copy_", "empty", "empty_like",
    "empty_strided", "expand_copy", "fill", "fill_", "full", "full_like", "gather",
    "index_select", "lift_fresh", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "ones", "ones_like", "repeat", "select_backward", "slice_backward",
    "stack", "view_copy", "zero_", "zeros", "zeros_like",
})  # fmt: skip
# the first result has the first operand's dtype whatever the others are; the rest are statistics
# in float32, or gradients that autograd casts to their weights' dtype
_LIKE_FIRST = frozenset({
    "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "batch_norm_backward", "batch_norm_with_update", "native_batch_norm",
    "native_batch_norm_backward", "native_group_norm", "native_group_norm_backward",
    "native_layer_norm", "native_layer_norm_backward", "online_norm",
    "_scaled_dot_product_flash_attention_for_cpu",
})  # fmt: skip
# torch 2.0 hands a mode numbers where these take tensors only
_NO_NUMBERS = frozenset({
    torch.ops.aten.bitwise_and_.Tensor, torch.ops.aten.bitwise_or.Tensor,
    torch.ops.aten.bitwise_or_.Tensor, torch.ops.aten.bitwise_xor.Tensor,
    torch.ops.aten.bitwise_xor_.Tensor,
})  # fmt: skip
# updates its running statistics although its schema does not say so
_WRITES_UNDECLARED = {"native_batch_norm": (3, 4)}


def is_half(tensor: torch.Tensor) -> bool:
    """Whether the tensor is stored in 16 bits."""
    return tensor.dtype == torch.float16


class HalfArithmetic(TorchDispatchMode):
    """While active, operations on half tensors compute in float32 and round.

    Args:
        rounding: float32 to half.

    Attributes:
        was_used: whether any half tensor was met.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler, seconds of work, at the first operation."""
        return False

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._round = rounding
        self.was_used = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NO_NUMBERS and not isinstance(args[1], torch.Tensor):
            args = (args[0], torch.tensor(args[1]))
        operands = _tensors([*args, *kwargs.values()])
        if not any(is_half(t) for t in operands):
            self.was_used |= kwargs.get("dtype") == torch.float16
            return func(*args, **kwargs)
        self.was_used = True
        name = func.overloadpacket.__name__
        if name in _MOVES or torch.Tag.inplace_view in func.tags or _is_view(func):
            return func(*args, **kwargs)
        return self._compute(func, name, operands, args, kwargs)

    def _compute(
        self,
        func: Any,
        name: str,
        operands: List[torch.Tensor],
        args: Tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        widened: Dict[int, torch.Tensor] = {}

        def widen(tensor: torch.Tensor) -> torch.Tensor:
            if not is_half(tensor):
                return tensor
            if id(tensor) not in widened:
                widened[id(tensor)] = tensor.float()
            return widened[id(tensor)]

        wide_args = _map(args, widen)
        wide_kwargs = {key: _map(value, widen) for key, value in kwargs.items()}
        result = func(*wide_args, **wide_kwargs)
        originals = {id(widened[id(t)]): t for t in operands if id(t) in widened}
        for tensor in _written(func, name, args, kwargs):
            if is_half(tensor):
                tensor.copy_(self._round(widened[id(tensor)]))
        dtype = _result_dtype(operands, kwargs)

        def narrow(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) in originals:  # an operation in place returns its operand
                return originals[id(tensor)]
            if tensor.dtype != torch.float32 or dtype != torch.float16:
                return tensor
            return self._round(tensor)

        if name in _LIKE_FIRST:
            first = result[0]
            if is_half(operands[0]) and first is not None and first.dtype == torch.float32:
                first = self._round(first)
            return (first, *result[1:])
        return _map(result, narrow)


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply ``function`` to the tensors; a dtype asked for is widened too."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_map(v, function) for v in value])
    return torch.float32 if value is torch.float16 else value


def _tensors(value: Any) -> List[torch.Tensor]:
    found: List[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _map(value, note)
    return found


def _is_view(func: Any) -> bool:
    schema = func._schema
    return any(
        a.alias_info is not None and not a.alias_info.is_write for a in schema.arguments
    ) and any(r.alias_info is not None for r in schema.returns)


def _written(
    func: Any, name: str, args: Tuple[Any, ...], kwargs: Mapping[str, Any]
) -> List[torch.Tensor]:
    found = [args[i] for i in _WRITES_UNDECLARED.get(name, ()) if i < len(args)]
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[index] if index < len(args) else kwargs.get(argument.name))
    return _tensors(found)


def _result_dtype(operands: List[torch.Tensor], kwargs: Mapping[str, Any]) -> torch.dtype:
    """torch's promotion: tensors with dimensions decide before those without."""
    asked = kwargs.get("dtype")
    if asked is not None:
        result: torch.dtype = asked
        return result
    floats = [t for t in operands if t.dtype in _FLOATS]
    deciding = [t for t in floats if t.dim()] or floats
    dtype = torch.float16
    for tensor in deciding:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
