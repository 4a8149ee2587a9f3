"""Operations that the device computes as several others, as programs of torch.

Each takes the arguments of the aten operation by name. A program is recorded in the operation's
place, on tensors without data.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

__all__ = ["COMPOSITIONS"]

_NONE, _MEAN, _SUM = range(3)  # aten's numbers of a loss's reduction


def _reduced(losses: Tensor, reduction: int) -> Tensor:
    if reduction == _NONE:
        return losses
    return losses.mean() if reduction == _MEAN else losses.sum()


def _mse_loss(self: Tensor, target: Tensor, reduction: int) -> Tensor:
    return _reduced((self - target).square(), reduction)


def _smooth_l1_loss(self: Tensor, target: Tensor, reduction: int, beta: float) -> Tensor:
    distance = (self - target).abs()
    if beta == 0:
        return _reduced(distance, reduction)
    near, far = distance.square() * (0.5 / beta), distance - 0.5 * beta
    return _reduced(torch.where(distance < beta, near, far), reduction)


def _huber_loss(self: Tensor, target: Tensor, reduction: int, delta: float) -> Tensor:
    distance = (self - target).abs()
    near, far = distance.square() * 0.5, (distance - 0.5 * delta) * delta
    return _reduced(torch.where(distance < delta, near, far), reduction)


def _soft_margin_loss(self: Tensor, target: Tensor, reduction: int) -> Tensor:
    return _reduced((-target * self).exp().log1p(), reduction)


def _binary_cross_entropy(
    self: Tensor, target: Tensor, weight: Optional[Tensor], reduction: int
) -> Tensor:
    log, log_other = self.log().clamp(min=-100), (1 - self).log().clamp(min=-100)
    losses = -(target * log + (1 - target) * log_other)
    return _reduced(losses if weight is None else losses * weight, reduction)


def _binary_cross_entropy_with_logits(
    self: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    pos_weight: Optional[Tensor],
    reduction: int,
) -> Tensor:
    """(1 - t)·x + softplus(-x), the softplus weighted for positive targets."""
    softplus = (-self).clamp(min=0) + (-self.abs()).exp().log1p()
    if pos_weight is not None:
        softplus = softplus * ((pos_weight - 1) * target + 1)
    losses = (1 - target) * self + softplus
    return _reduced(losses if weight is None else losses * weight, reduction)


def _xlogy(self: Any, other: Any) -> Tensor:
    return torch.mul(self, torch.as_tensor(other).log())


def _lerp(self: Tensor, end: Tensor, weight: Any) -> Tensor:
    return torch.add(self, (end - self) * weight)


def _logsumexp(self: Tensor, dim: List[int], keepdim: bool) -> Tensor:
    largest = self.amax(dim, keepdim=True)
    summed = (self - largest).exp().sum(dim, keepdim=keepdim).log()
    return summed + (largest if keepdim else largest.reshape(summed.shape))


def _var(
    self: Tensor, dim: Any = None, keepdim: bool = False, correction: Any = None, **_: Any
) -> Tensor:
    axes = list(range(self.dim())) if dim in (None, []) else dim
    centred = self - self.mean(axes, keepdim=True)
    count = 1
    for axis in axes if isinstance(axes, (list, tuple)) else [axes]:
        count *= self.shape[axis]
    correction = 1 if correction is None else correction
    summed = centred.square().sum(axes, keepdim=keepdim)
    return torch.div(summed, max(count - correction, 1))


def _std(self: Tensor, **arguments: Any) -> Tensor:
    return _var(self, **arguments).sqrt()


def _var_mean(self: Tensor, dim: Any = None, keepdim: bool = False, **arguments: Any) -> Any:
    axes = list(range(self.dim())) if dim in (None, []) else dim
    return _var(self, dim, keepdim, **arguments), self.mean(axes, keepdim=keepdim)


def _vector_norm(
    self: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> Tensor:
    axes = list(range(self.dim())) if dim in (None, []) else dim
    if ord == 1:
        return self.abs().sum(axes, keepdim=keepdim)
    if ord == 2:
        return self.square().sum(axes, keepdim=keepdim).sqrt()
    if ord == float("inf"):
        return self.abs().amax(axes, keepdim=keepdim)
    if ord == float("-inf"):
        return self.abs().amin(axes, keepdim=keepdim)
    return self.abs().pow(ord).sum(axes, keepdim=keepdim).pow(1 / ord)


def _norm(self: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    return _vector_norm(self, 2 if p is None else p, dim, keepdim)


def _glu(self: Tensor, dim: int) -> Tensor:
    value, gate = self.chunk(2, dim)
    return value * gate.sigmoid()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Optional[Tensor] = None,
    attn_bias: Optional[Tensor] = None,
    scale: Optional[float] = None,
    **_: Any,
) -> Tuple[Tensor, ...]:
    """Query and key are scaled before their product, as where torch has no fused kernel."""
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = (query * root) @ (key * root).transpose(-2, -1)
    mask = attn_mask if attn_bias is None else attn_bias
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device="meta").tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    if mask is not None:
        scores = scores + mask
    weights = torch.dropout(scores.softmax(-1), dropout_p, dropout_p > 0)
    return (weights @ value,)


COMPOSITIONS: Dict[str, Callable[..., Any]] = {
    "mse_loss": _mse_loss,
    "smooth_l1_loss": _smooth_l1_loss,
    "huber_loss": _huber_loss,
    "soft_margin_loss": _soft_margin_loss,
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
    "xlogy": _xlogy,
    "lerp": _lerp,
    "logsumexp": _logsumexp,
    "var": _var,
    "std": _std,
    "var_mean": _var_mean,
    "linalg_vector_norm": _vector_norm,
    "norm": _norm,
    "glu": _glu,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
}
