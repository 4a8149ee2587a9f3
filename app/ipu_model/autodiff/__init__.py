"""Training graphs: the backward pass and the weight update, grown on a forward graph.

`grow_backward` walks the operations in reverse, as popart's autodiff does, and asks each one's rule
for the operations that make the gradients of its operands. Only gradients on a way from the loss
to a trainable parameter are made. Rules use the kinds of the forward graph where popart does;
beside them they grow these, with operands -> results; attributes (dy is the gradient of the
forward operation's y, the rest are its operands and results):

    conv_data_grad              dy, w -> dx; those of the forward operation, and field: sizes of x
    conv_weight_grad            x, dy -> dw; those of the forward operation, and kernel: sizes of w
    conv_transpose_data_grad    likewise
    conv_transpose_weight_grad  likewise
    matmul                      dy, transposed b -> da; linear, pass: "data_grad"
                                transposed a, dy -> db; linear, pass: "weight_grad"
    unary_grad                  dy, and y or x -> dx; those of the forward operation
    group_norm_grad             x, mean, inv_std, weight if affine, dy -> dx, and dweight and dbias
                                as there are weight and bias; those of the forward operation
    layer_norm_grad             likewise
    batch_norm_grad             likewise; without training, mean and inv_std are the running ones
    online_norm_grad            y, inv_std, means of y and y^2, streams of projection and gradient,
                                dy -> dx; those of the forward operation
    softmax_grad                y, dy -> dx; axis. log_softmax_grad: likewise
    nll_loss_grad               log-probabilities, labels, dy -> their gradient; reduction
    nll_softmax_grad            log-probabilities, labels, dy -> gradient of log_softmax's operand,
                                where nothing else reads the log-probabilities; axis, reduction
    max_pool_grad               x, y, dy -> dx; those of the forward operation
    avg_pool_grad               dy -> dx; those of the forward operation, and field: sizes of x
    resize_grad                 dy -> dx; likewise
    copy                        dy -> dx of a slice; function pad, padding, and axis and step where
                                the slice had a step
    concat                      gradients of several slices, and zeros between them -> dx; axis
    scatter                     zeros, indices, dy -> dx; axis, function: add or set, or
                                elements_add or elements_set where each has its own index
    scan                        dy -> dx; function, axis, reverse
    binary                      two gradients that meet -> their sum; function add, in_place:
                                whether it may overwrite the first
    unknown                     dy, x -> dx, of a forward operation without translation

The update adds `accumulate`, `all_reduce` and `update` (see `grow_update`).
"""

from app.ipu_model.autodiff import (  # noqa: F401  (importing them registers the rules)
    elementwise,
    indexing,
    linear,
    losses,
    movement,
    norms,
    pooling,
    reductions,
)
from app.ipu_model.autodiff.backward import grow_backward, wanted_tensors
from app.ipu_model.autodiff.update import grow_update

__all__ = ["grow_backward", "grow_update", "wanted_tensors"]
