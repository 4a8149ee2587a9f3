"""Gradients of losses."""

from math import prod
from typing import Optional

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op

__all__ = ["identity_loss", "nll_loss"]


@gradient("nll_loss")
def nll_loss(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/nll.cpp; directly after a softmax the two gradients are one operation
    (willow/src/patterns/softmaxgraddirect.cpp, nlllwithsoftmaxgraddirect.cpp)."""
    softmax = _softmax_of(growth, op)
    if softmax is None:
        x, kind, attributes = op.inputs[0], "nll_loss_grad", dict(op.attributes)
    else:
        x, kind = softmax.inputs[0], "nll_softmax_grad"
        attributes = {**op.attributes, **softmax.attributes}
    (dx,) = growth.emit_like(kind, (*op.inputs, dy), (x,), attributes)
    growth.give(x, dx)


def _softmax_of(growth: Growth, loss: Op) -> Optional[Op]:
    """The log-softmax that makes the probabilities, if no other gradient arrives at them."""
    probabilities = loss.inputs[0]
    readers = growth.consumers[probabilities]
    alone = not any(growth.wants(id) for op in readers if op is not loss for id in op.outputs)
    producer = growth.producers.get(probabilities)
    return producer if producer and producer.kind == "log_softmax" and alone else None


@gradient("identity_loss")
def identity_loss(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/identity.cpp (IdentityLossGradOp): the reduction's gradient."""
    (x,) = op.inputs
    wide = growth.expanded(dy, growth.shape(x))
    if op.attributes["reduction"] == "mean":
        wide = growth.divided(wide, prod(growth.shape(x)))
    growth.give(x, wide)
