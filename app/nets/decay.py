"""Which parameters of a network weight decay leaves alone."""

from typing import List

from torch import nn


def undecayed_parameters(net: nn.Module) -> List[nn.Parameter]:
    """Weights, biases and thresholds of the norms, and the scales of weight norm.

    Everything else decays: weights of layers, biases of squeeze-excite and classifier, and the
    proxy's own parameters (arXiv 2106.03640, section 4, and the authors' code). Each module says
    in ``undecayed`` which of its parameters do not.
    """
    found = []
    for module in net.modules():
        for name in getattr(module, "undecayed", ()):
            parameter = getattr(module, name)
            if parameter is not None:
                found.append(parameter)
    return found
