"""PopTorch's rules for operands of mixed half and float types, where they are not torch's.

Convolutions and norms cast their weight and bias to the input's type; running statistics keep
theirs. A linear layer computes in the promoted type and gives its result the input's type. All
other operations promote as in torch. Source: graphcore/poptorch, poptorch/source/Utils.cpp,
poptorch/source/popart_canonicalization/TensorOps.cpp (SDK 3.4).
"""

from typing import Any, Callable, Dict, Optional

import torch
import torch.nn.functional as F

_HALF_OR_FLOAT = (torch.float16, torch.float32)


def cast_like(input: torch.Tensor, weight: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    """``weight`` in the input's type, if one is half and the other float32."""
    if weight is None or weight.dtype == input.dtype:
        return weight
    if input.dtype in _HALF_OR_FLOAT and weight.dtype in _HALF_OR_FLOAT:
        return weight.to(input.dtype)
    return weight


def _weights_like_input(
    function: Callable[..., torch.Tensor], position: int
) -> Callable[..., torch.Tensor]:
    """``function`` with its weight, the argument at ``position``, and the bias after it cast."""

    def run(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        others = list(args)
        for index, name in ((position - 1, "weight"), (position, "bias")):
            if index < len(others):
                others[index] = cast_like(input, others[index])
            elif name in kwargs:
                kwargs[name] = cast_like(input, kwargs[name])
        return function(input, *others, **kwargs)

    return run


def _linear(
    input: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None
) -> torch.Tensor:
    promoted = torch.promote_types(input.dtype, weight.dtype)
    result = F.linear(
        input.to(promoted), weight.to(promoted), None if bias is None else bias.to(promoted)
    )
    return result.to(input.dtype)


def strided_group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: Optional[torch.Tensor] = None,
    bias: Optional[torch.Tensor] = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Group norm whose groups take every ``num_groups``-th channel, as PopART's
    ``groupNormStridedChannelGrouping`` does to save rearrangements."""
    size, channels = input.shape[0], input.shape[1]
    apart = input.reshape(size, channels // num_groups, num_groups, -1).transpose(1, 2)
    result = F.group_norm(apart.reshape(size, channels, -1), num_groups, eps=eps)
    result = result.reshape(size, num_groups, channels // num_groups, -1).transpose(1, 2)
    result = result.reshape(input.shape)
    per_channel = (1, channels) + (1,) * (input.dim() - 2)
    if weight is not None:
        result = result * weight.to(input.dtype).view(per_channel)
    return result if bias is None else result + bias.to(input.dtype).view(per_channel)


CASTING: Dict[Any, Callable[..., torch.Tensor]] = {
    F.linear: _linear,
    F.layer_norm: _weights_like_input(F.layer_norm, 2),
    F.group_norm: _weights_like_input(F.group_norm, 2),
    F.instance_norm: _weights_like_input(F.instance_norm, 3),
    **{
        function: _weights_like_input(function, 1)
        for function in (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
                         F.conv_transpose3d)
    },
}  # fmt: skip
