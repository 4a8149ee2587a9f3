"""Online Normalization (arXiv 1905.05894, algorithms 1 and 2; Cerebras/online-normalization).

Every sample is normalised with running statistics of the samples before it. The gradient is not
the derivative of that: a control process keeps it free, on average over time, of what batch norm's
gradient is free of, a component along the output and a mean. PopTorch has no user-defined
gradients: on IPUs this needs a custom operator in C++ (popart ``CustomOp``), for which
``torch.ops.ipu_app.online_norm`` has the shape.
"""

from functools import lru_cache
from typing import Any, Callable, List, Tuple

import torch
from torch import Tensor, nn

from app.nets.norms.activation import Activation, identity, per_channel, widened

CLAMP = 5.0
"""Where outputs are cut off, so that a rare sample does no harm (section 3.3's alternative)."""

Streams = Tuple[Tensor, Tensor, Tensor, Tensor]


class OnlineNorm(nn.Module):
    """Online normalization, affine, cut-off at ±5, activation if there is one:
    [N, C, H, W] -> same.

    Args:
        channels: C.
        forward_decay: of the streams of past statistics, per sample.
        backward_decay: of the streams that correct gradients, per sample.
        epsilon: added to the variance.
        activation: what follows.

    The four streams are buffers [C], float32 also where the network is half: running mean and
    variance, and, from the backward passes, the gradient's running projection onto the output and
    running mean. Samples of a micro-batch follow each other in its order. In evaluation mode all
    are constants. On replicas each has its own; the host reads those of replica 0.

    PopTorch has no user-defined gradients: on hardware this norm would need a custom operator.
    """

    undecayed = ("weight", "bias")

    running_mean: Tensor
    running_var: Tensor
    running_projection: Tensor
    running_gradient: Tensor

    def __init__(
        self,
        channels: int,
        *,
        forward_decay: float,
        backward_decay: float,
        epsilon: float,
        activation: Activation = identity,
    ) -> None:
        super().__init__()
        self.decays = forward_decay, backward_decay
        self.epsilon = epsilon
        self.activation = activation
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("running_projection", torch.zeros(channels))
        self.register_buffer("running_gradient", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            streams = [getattr(self, name) for name in STREAMS]
            y = self._affine(
                _OnlineNorm.apply(x, *streams, self.decays, self.epsilon), self.weight, self.bias
            )
        else:
            weight = self.weight * torch.rsqrt(self.running_var + self.epsilon)
            y = self._affine(x, weight, self.bias - self.running_mean * weight)
        return self.activation(y.clamp(-CLAMP, CLAMP))

    @staticmethod
    def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.addcmul(per_channel(bias).to(x.dtype), x, per_channel(weight).to(x.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> "OnlineNorm":
        # Half has no room for a thousandth of a statistic: the streams keep their width, as batch
        # norm's running statistics do under PopTorch's runningStatisticsAlwaysFloat.
        before = {name: getattr(self, name) for name in STREAMS}
        super()._apply(fn, *args)
        for name, stream in before.items():
            cast = getattr(self, name)
            if widened(cast) is not cast:
                setattr(self, name, widened(stream).to(cast.device))
        return self

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, decays={self.decays}, epsilon={self.epsilon}"


STREAMS = ("running_mean", "running_var", "running_projection", "running_gradient")


class _OnlineNorm(torch.autograd.Function):
    """Normalises with the streams, and has the control process as its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        projection: Tensor,
        gradient: Tensor,
        decays: Tuple[float, float],
        epsilon: float,
    ) -> Tensor:
        y, inv_std, first, second = torch.ops.ipu_app.online_norm(
            x, mean, variance, projection, gradient, *decays, epsilon
        )
        ctx.save_for_backward(y, inv_std, first, second)
        ctx.streams, ctx.decay = (projection, gradient), decays[1]
        made: Tensor = y
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tuple[Any, ...]:
        y, inv_std, first, second = ctx.saved_tensors
        projections, means = ctx.streams
        found = control_gradient(
            gradients[0], y, inv_std, (first, second), (projections, means), ctx.decay
        )
        return (found, None, None, None, None, None, None)


def normalise_online(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    projection: Tensor,
    gradient: Tensor,
    decay: float,
    backward_decay: float,
    epsilon: float,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """The forward pass: normalises [N, C, H, W], and moves ``mean`` and ``variance`` [C] on.

    With a = decay, m and s the streams before a sample, and m_x and v_x its own mean and variance:
    y = (x - m)/sqrt(s + epsilon); s <- a·s + (1 - a)·v_x + a·(1 - a)·(m_x - m)²;
    m <- a·m + (1 - a)·m_x. The gradient's streams and decay are operands that stay as they are: a
    graph of the forward pass has them where the backward pass will need them.

    Returns:
        y, and of every sample [N, C]: 1/sqrt(s + epsilon), and the means of y and y².
    """
    wide, type = widened(x), widened(mean).dtype
    own_variance, own_mean = (t.to(type) for t in torch.var_mean(wide, (2, 3), correction=0))
    means = _decayed(mean, (1 - decay) * own_mean, decay)
    distance = own_mean - means[:-1]
    step = (1 - decay) * (own_variance + decay * distance.square())
    variances = _decayed(variance, step, decay)
    mean.copy_(means[-1])
    variance.copy_(variances[-1])
    inv_std = torch.rsqrt(variances[:-1] + epsilon)
    first = distance * inv_std
    second = own_variance * inv_std.square() + first.square()
    shift, scale = (_over_pixels(t).to(wide.dtype) for t in (-means[:-1] * inv_std, inv_std))
    return torch.addcmul(shift, wide, scale).to(x.dtype), inv_std, first, second


def control_gradient(
    gradient: Tensor,
    y: Tensor,
    inv_std: Tensor,
    moments: Tuple[Tensor, Tensor],
    streams: Tuple[Tensor, Tensor],
    decay: float,
) -> Tensor:
    """The backward pass: the gradient [N, C, H, W] of x from that of y; moves the streams on.

    With c = decay, v and u the streams [C] before a sample: h = g - (1 - c)·v·y;
    v <- v + mean(h·y); result = h/sqrt(s + epsilon) - (1 - c)·u; u <- u + mean(result).

    Args:
        gradient, y, inv_std: of the forward pass's first result, and its results.
        moments: means of y and y² of every sample, [N, C].
        streams: v, the projection, and u, the mean; changed in place.
        decay: c.
    """
    first, second = moments
    wide, type = widened(gradient), inv_std.dtype
    wide_y = widened(y)
    own_mean = wide.mean((2, 3)).to(type)
    own_projection = (wide * wide_y).mean((2, 3)).to(type)
    projection, mean = streams
    v, projections = projection, []
    for along, power in zip(own_projection.unbind(), second.unbind()):  # rows of C numbers
        projections.append(v)
        v = v + along - (1 - decay) * v * power
    projected = (1 - decay) * torch.stack(projections)
    means = _decayed(mean, (own_mean - projected * first) * inv_std, decay)
    projection.copy_(v)
    mean.copy_(means[-1])
    slope, scale, shift = (
        _over_pixels(t).to(wide.dtype)
        for t in (-projected * inv_std, inv_std, (decay - 1) * means[:-1])
    )
    return torch.addcmul(shift, wide, scale).addcmul_(wide_y, slope).to(gradient.dtype)


def _over_pixels(statistic: Tensor) -> Tensor:
    return statistic[:, :, None, None]


def _decayed(start: Tensor, steps: Tensor, decay: float) -> Tensor:
    """A stream [C] before each of N samples and after the last, [N + 1, C].

    It begins at ``start``; each sample multiplies it by ``decay`` and adds its row of ``steps``.
    All at once, as a product of matrices, so that the samples need not wait for each other.
    """
    rows = torch.cat((start.unsqueeze(0), steps))
    return _powers(len(rows), decay).to(rows) @ rows


@lru_cache(maxsize=64)
def _powers(count: int, decay: float) -> Tensor:
    """decay^(i - j) for i >= j, else 0: [count, count], float64."""
    rows: List[List[float]] = [
        [decay ** (i - j) if i >= j else 0.0 for j in range(count)] for i in range(count)
    ]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def _without_data(x: Tensor, mean: Tensor, *_: Any) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``normalise_online`` returns, in shapes and types."""
    statistics = [mean.new_empty(x.shape[:2], dtype=widened(mean).dtype) for _ in range(3)]
    return (torch.empty_like(x), statistics[0], statistics[1], statistics[2])


def _register() -> torch.library.Library:
    """An operation of its own, so that a graph of the network has it as one."""
    library = torch.library.Library("ipu_app", "DEF")
    library.define(
        "online_norm(Tensor x, Tensor(a!) mean, Tensor(b!) variance, Tensor projection, "
        "Tensor gradient, float decay, float backward_decay, float epsilon) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    library.impl("online_norm", normalise_online, "CPU")
    library.impl("online_norm", _without_data, "Meta")
    return library


_library = _register()
