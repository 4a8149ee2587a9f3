"""Number types of what is trained: weights, activations, and what the optimiser is told of them.

=======  ==============  =================================  ===============
types    arithmetic      weights                            accumulators
=======  ==============  =================================  ===============
32.32    float32         float32                            float32
16.32    half            float32, cast by every layer       float32
16.16    half            half                               half, as means
=======  ==============  =================================  ===============

Optimiser state and running statistics are float32 throughout: in half, a mean square underflows,
and an average stops at a few hundredths of what it should become. The loss is float32 as well.
PopTorch keeps no float32 copy beside half weights, so updates below a weight's spacing are lost,
unless rounding is stochastic.
"""

from typing import Any, Dict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from app.config.schema import Precision


class InputTypedLinear(nn.Linear):
    """A linear layer that casts its weight and bias to its input's type.

    PopTorch has convolutions and norms do so; of a linear layer it would widen a half input and
    compute in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def set_types(net: nn.Module, precision: Precision) -> None:
    """Give a network's weights the run's types, and let its layers compute in their input's."""
    if not precision.half_data:
        return
    if precision.half_weights:
        net.half()
    for module in net.modules():
        if type(module) is nn.Linear:
            # still the module at which a pipeline stage may begin
            module.__class__ = InputTypedLinear
        elif isinstance(module, _NormBase) and module.running_mean is not None:
            module.running_mean = module.running_mean.float()
            module.running_var = cast(Tensor, module.running_var).float()


def data_type(precision: Precision) -> torch.dtype:
    """Type of images and activations."""
    return torch.half if precision.half_data else torch.float32


def optimizer_arguments(precision: Precision) -> Dict[str, Any]:
    """What PopTorch's optimisers are told; None leaves an argument as if it were not given."""
    return {
        # a loss scaling that is given is variable, and costs a scalar for each group
        "loss_scaling": None if precision.loss_scaling == 1 else precision.loss_scaling,
        # half accumulators hold a running mean, which PopTorch switches to by itself
        "accum_type": torch.half if precision.half_weights else None,
    }
