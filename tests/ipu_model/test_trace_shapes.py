"""Shapes that the trace works out by itself are those that torch computes."""

from typing import Any, List, Tuple

import pytest
import torch
from torch import Tensor

from app.ipu_model.trace.shapes import _RULES, known_result

aten = torch.ops.aten


def real(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


X, ROW, LABELS = real(2, 4, 6, 5), real(1, 4, 1, 1), torch.zeros(2, dtype=torch.int64)
LOGITS = real(2, 7)
CONV = ([2, 1], [1, 0], [1, 2], False, [0, 0])
CASES: List[Tuple[Any, Tuple[Any, ...]]] = [
    *((func, (X,)) for func in _RULES if func.overloadpacket.__name__ in (
        "silu", "relu", "sigmoid", "tanh", "neg", "rsqrt", "exp")),
    (aten.mul.Tensor, (X, ROW)),
    (aten.mul.Tensor, (X, 3)),
    (aten.div.Tensor, (ROW, X)),
    (aten.add.Tensor, (X, X)),
    (aten.sub.Tensor, (X, ROW)),
    (aten.addcmul.default, (ROW, X, ROW)),
    (aten.pow.Tensor_Scalar, (X, 2)),
    (aten.sum.dim_IntList, (X, [1, -1])),
    (aten.sum.dim_IntList, (X, [0], True)),
    (aten.mean.dim, (X, [2, 3])),
    (aten.sum.default, (X,)),
    (aten.mean.default, (X,)),
    (aten.mm.default, (LOGITS, real(7, 3))),
    (aten.addmm.default, (real(3), LOGITS, real(7, 3))),
    (aten.convolution.default, (X, real(8, 2, 3, 2), None, *CONV, 2)),
    (aten.stack.default, ([X, X, X], 1)),
    (aten.stack.default, ([X, X],)),
    (aten.stack.default, ([X, X], -1)),
    (aten.eq.Tensor, (X, ROW)),
    (aten.argmax.default, (LOGITS, 1)),
    (aten._log_softmax.default, (LOGITS, 1, False)),
    (aten.nll_loss_forward.default, (LOGITS, LABELS, None, 0, -100)),
    (aten.nll_loss_forward.default, (LOGITS, LABELS, None, 1, -100)),
    (aten.native_group_norm.default, (X, real(4), real(4), 2, 4, 30, 2, 1e-5)),
]  # fmt: skip


def on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return [on_meta(part) for part in value] if isinstance(value, list) else value


def form(result: Any) -> Any:
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [(tuple(part.shape), part.dtype) for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("func", "args"), CASES, ids=[str(func) for func, _ in CASES])
def test_shapes_and_types_are_torch_s(func: Any, args: Tuple[Any, ...], dtype: torch.dtype) -> None:
    given = [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    known = known_result(func, tuple(map(on_meta, given)), {})
    assert form(known) == form(func(*given))
    assert all(part.is_meta for part in (known if isinstance(known, tuple) else [known]))


def test_every_rule_has_a_case() -> None:
    covered = {func for func, _ in CASES}
    assert set(_RULES) - covered == {aten.nll_loss2d_forward.default}  # torch 2.0 lacks it on meta


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (aten.mul.Tensor, (X, real(1, dtype=torch.float64)), {}),  # a type that torch promotes
        (aten.div.Tensor, (LABELS, LABELS), {}),
        (aten.silu.default, (LABELS,), {}),
        (aten.sum.default, (LABELS,), {}),
        (aten.mul.Tensor, (X, 2j), {}),
        (aten.sum.dim_IntList, (X, [1]), {"dtype": torch.float64}),
        (aten.argmax.default, (LOGITS,), {}),
        (aten.convolution.default, (X, real(4, 2, 3, 3), None, [1], [1], [1], True, [0], 1), {}),
        (aten.cos.default, (X,), {}),
    ],
)
def test_what_is_unusual_is_left_to_torch(func: Any, args: Any, kwargs: Any) -> None:
    assert known_result(func, tuple(map(on_meta, args)), kwargs) is None
