"""Gradients of normalisations and softmaxes."""

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op

__all__ = ["norm", "online_norm", "softmax"]


@gradient("group_norm", "layer_norm", "batch_norm")
def norm(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/groupnorm.cpp, batchnorm.cpp: one operation for all gradients.

    It whitens the operand again, with the forward pass's statistics or inference's fixed ones.
    """
    x, *others = op.inputs
    running = others[-2:] if op.attributes.get("running") else []
    affine = others[: len(others) - len(running)]
    fixed = bool(running) and not op.attributes.get("training")
    statistics = running if fixed else op.outputs[1:]
    weight = affine[:1]
    made = growth.emit_like(
        f"{op.kind}_grad", (x, *statistics, *weight, dy), (x, *affine), op.attributes
    )
    for operand, found in zip((x, *affine), made):
        if growth.wants(operand):
            growth.give(operand, found)


@gradient("online_norm")
def online_norm(growth: Growth, op: Op, dy: int) -> None:
    """Online normalization's control process (arXiv 1905.05894, algorithm 2): from the result, what
    is known of each sample, and the two streams that it keeps."""
    x, _, _, *streams = op.inputs
    if growth.wants(x):
        operands = (*op.outputs, *streams, dy)
        (dx,) = growth.emit_like("online_norm_grad", operands, (x,), op.attributes)
        growth.give(x, dx)


@gradient("softmax", "log_softmax")
def softmax(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/softmax.cpp, logsoftmax.cpp: from the result."""
    (x,) = op.inputs
    (dx,) = growth.emit_like(f"{op.kind}_grad", (op.outputs[0], dy), (x,), op.attributes)
    growth.give(x, dx)
