"""Normalisations, softmaxes and losses are exactly their lists of passes and reductions."""

from typing import Dict, Tuple

import pytest

from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.passes import (
    binary_pass,
    broadcast_pass,
    cast_pass,
    copy_pass,
    fill_pass,
    scalar_pass,
    scaled_add_pass,
    small_pass,
    unary_pass,
)
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.vertices.broadcast import channel_add_cycles, channel_mul_cycles, row_cycles
from app.ipu_model.cost.vertices.elementwise import scalar_binary_cycles
from app.ipu_model.cost.vertices.work import TileWork
from tests.ipu_model.cost.single_op import FLOAT, HALF, INT32, context, cost

TILES = 64
ON = context(TILES)
X, C = (2, 64, 16, 16), (64,)
N = 512  # elements on a tile
GROUPS = 4
# samples and groups are axes 0 and 1, channels of a group axis 2
GROUPED = Layout.of((2, GROUPS, 16, 16, 16), HALF, TILES, inner_axis=2)
CHANNELS = Layout.of(X, HALF, TILES, inner_axis=1)


def work_of(cost: Cost) -> Tuple[float, ...]:
    """All but temporaries and code, which the rules add."""
    return (
        cost.compute_cycles,
        cost.exchange_cycles,
        cost.sync_cycles,
        cost.flops,
        cost.moved_bytes,
        cost.compute_sets,
    )


def assert_same_work(whole: Cost, *parts: Cost) -> None:
    assert work_of(whole) == pytest.approx(work_of(sum(parts, Cost())))


def group_norm(affine: bool) -> Cost:
    statistics = (2, GROUPS)
    operands = [X, C, C] if affine else [X]
    return cost(
        "group_norm", operands, [X, statistics, statistics], ON, groups=GROUPS, affine=affine
    )


def test_group_norm_is_statistics_and_four_passes() -> None:
    assert_same_work(
        group_norm(affine=True),
        reduction(ON, GROUPED, (0, 1), FLOAT, tensors=2),
        small_pass(ON, 2 * GROUPS, "variance_to_inv_std"),
        broadcast_pass(ON, GROUPED, (0, 1), "sub"),
        broadcast_pass(ON, GROUPED, (0, 1), "mul", in_place=True),
        broadcast_pass(ON, CHANNELS, (1,), "mul", in_place=True),
        broadcast_pass(ON, CHANNELS, (1,), "add", in_place=True),
    )


def test_the_passes_of_group_norm_in_closed_form() -> None:
    work = TileWork(N, HALF)
    passes = group_norm(affine=True).compute_cycles - group_norm(affine=False).compute_cycles
    multiplied = channel_mul_cycles(work, 16, in_place=True)
    assert passes == multiplied + channel_add_cycles(work, 16, in_place=True)
    # a tile holds positions of one group of one sample: one mean, broadcast like a number
    whitening = broadcast_pass(ON, GROUPED, (0, 1), "sub")
    assert whitening.compute_cycles == scalar_binary_cycles("sub", work)
    # the result is whitened and scaled in its own memory
    assert group_norm(affine=True).temporary_tile_bytes < 2 * N


def test_layer_norm_has_a_mean_for_each_row() -> None:
    tokens, features = (64, 8, 64), (64,)
    rows = Layout.of(tokens, HALF, TILES)
    whole = cost(
        "layer_norm",
        [tokens, features, features],
        [tokens, (64, 8, 1), (64, 8, 1)],
        ON,
        axes=1,
        affine=True,
    )
    assert_same_work(
        whole,
        reduction(ON, rows, (0, 1), FLOAT, tensors=2),
        small_pass(ON, 64 * 8, "variance_to_inv_std"),
        broadcast_pass(ON, rows, (0, 1), "sub"),
        broadcast_pass(ON, rows, (0, 1), "mul", in_place=True),
        broadcast_pass(ON, rows, (2,), "mul", in_place=True),
        broadcast_pass(ON, rows, (2,), "add", in_place=True),
    )
    means = broadcast_pass(ON, rows, (0, 1), "sub")
    assert means.compute_cycles == row_cycles(TileWork(N, HALF), 8, 64)


def batch_norm(training: bool, running: bool = True) -> Cost:
    operands = [X, *[C] * (4 if running else 2)]
    return cost(
        "batch_norm", operands, [X, C, C], ON, training=training, running=running, affine=True
    )


def test_batch_norm_in_training_adds_small_operations_to_two_passes() -> None:
    two_passes = [
        broadcast_pass(ON, CHANNELS, (1,), "mul"),
        broadcast_pass(ON, CHANNELS, (1,), "add", in_place=True),
    ]
    small = {
        name: small_pass(ON, 64, name) for name in ("variance_to_inv_std", "mul", "sub", "add")
    }
    statistics = [reduction(ON, CHANNELS, (1,), FLOAT, tensors=2), small["variance_to_inv_std"]]
    combined = [small["mul"], small["sub"]]
    running = [small["variance_to_inv_std"], small["add"], small["add"]]
    assert_same_work(batch_norm(training=True), *statistics, *combined, *two_passes, *running)
    assert_same_work(batch_norm(training=True, running=False), *statistics, *combined, *two_passes)
    assert_same_work(
        batch_norm(training=False), small["variance_to_inv_std"], *combined, *two_passes
    )


def test_gradients_of_group_norm_are_ten_passes_and_two_joint_reductions() -> None:
    kept = (0, 1)
    whole = cost(
        "group_norm_grad",
        [X, (2, GROUPS), (2, GROUPS), C, X],
        [X, C, C],
        ON,
        groups=GROUPS,
        affine=True,
    )
    assert_same_work(
        whole,
        broadcast_pass(ON, GROUPED, kept, "sub"),
        broadcast_pass(ON, GROUPED, kept, "mul", in_place=True),
        broadcast_pass(ON, CHANNELS, (1,), "mul"),
        binary_pass(ON, GROUPED, "mul"),
        reduction(ON, GROUPED, kept, FLOAT, tensors=2),
        copy_pass(ON, GROUPED),
        broadcast_pass(ON, GROUPED, kept, "mul", in_place=True),
        small_pass(ON, 2 * GROUPS, "mul"),
        broadcast_pass(ON, GROUPED, kept, "add", in_place=True),
        scaled_add_pass(ON, GROUPED, HALF),
        broadcast_pass(ON, GROUPED, kept, "mul", in_place=True),
        binary_pass(ON, GROUPED, "mul"),
        reduction(ON, CHANNELS, (1,), FLOAT, tensors=2),
    )
    assert whole.temporary_tile_bytes >= 3 * 2 * N


ONLINE = {"decay": 0.999, "backward_decay": 0.99, "epsilon": 1e-5}
SAMPLES = (2, 64)


def test_online_norm_is_statistics_two_passes_and_streams() -> None:
    kept = (0, 1)
    whole = cost("online_norm", [X, C, C, C, C], [X, *[SAMPLES] * 3], ON, **ONLINE)
    streams = ("sub", "mul", "mul", "add", "mul", "add", "mul", "mul", "add")
    assert_same_work(
        whole,
        reduction(ON, CHANNELS, kept, FLOAT, tensors=2),
        small_pass(ON, 2 * 64, "variance_to_inv_std"),
        *(small_pass(ON, 2 * 64, function) for function in streams),
        broadcast_pass(ON, CHANNELS, kept, "sub"),
        broadcast_pass(ON, CHANNELS, kept, "mul", in_place=True),
    )


def test_the_gradient_of_online_norm_is_five_passes_one_joint_reduction_and_streams() -> None:
    kept = (0, 1)
    whole = cost("online_norm_grad", [X, *[SAMPLES] * 3, C, C, X], [X], ON, **ONLINE)
    streams = ("mul", "mul", "sub", "add", "mul", "sub", "mul", "add")
    assert_same_work(
        whole,
        binary_pass(ON, CHANNELS, "mul"),
        reduction(ON, CHANNELS, kept, FLOAT, tensors=2),
        *(small_pass(ON, 2 * 64, function) for function in streams),
        *[broadcast_pass(ON, CHANNELS, kept, "mul")] * 2,
        scaled_add_pass(ON, CHANNELS, HALF),
        broadcast_pass(ON, CHANNELS, kept, "sub", in_place=True),
    )
    assert whole.temporary_tile_bytes >= 2 * N


def gradient_of_batch_norm(training: bool, affine: bool) -> Cost:
    weight = [C] if affine else []
    attributes = {"training": training, "running": True, "affine": affine}
    return cost("batch_norm_grad", [X, C, C, *weight, X], [X, *weight * 2], ON, **attributes)


def test_fixed_statistics_leave_one_pass_for_the_activation() -> None:
    one = broadcast_pass(ON, CHANNELS, (1,), "mul")
    assert_same_work(gradient_of_batch_norm(training=False, affine=False), one)
    assert_same_work(
        gradient_of_batch_norm(training=False, affine=True),
        small_pass(ON, 64, "mul"),
        one,
        broadcast_pass(ON, CHANNELS, (1,), "sub"),
        broadcast_pass(ON, CHANNELS, (1,), "mul", in_place=True),
        binary_pass(ON, CHANNELS, "mul"),
        reduction(ON, CHANNELS, (1,), FLOAT, tensors=2),
    )
    trained = gradient_of_batch_norm(training=True, affine=True)
    assert trained.cycles > 1.5 * gradient_of_batch_norm(training=False, affine=True).cycles


def test_softmax_is_two_reductions_and_three_passes() -> None:
    shape = (64, 512)
    layout, sums = Layout.of(shape, HALF, TILES), Layout.of((64,), FLOAT, TILES)
    exponentials = [
        reduction(ON, layout, (0,), HALF, partial=HALF),
        broadcast_pass(ON, layout, (0,), "sub"),
        unary_pass(ON, layout, "exp", in_place=True),
        reduction(ON, layout, (0,), FLOAT),
    ]
    assert_same_work(
        cost("softmax", [shape], [shape], ON, axis=1),
        *exponentials,
        unary_pass(ON, sums, "reciprocal", in_place=True),
        cast_pass(ON, sums, HALF),
        broadcast_pass(ON, layout, (0,), "mul", in_place=True),
    )
    assert_same_work(
        cost("log_softmax", [shape], [shape], ON, axis=-1),
        *exponentials,
        unary_pass(ON, sums, "log", in_place=True),
        cast_pass(ON, sums, HALF),
        broadcast_pass(ON, layout, (0,), "sub", in_place=True),
    )


@pytest.mark.parametrize("kind", ["softmax_grad", "log_softmax_grad"])
def test_gradients_of_softmaxes_are_three_passes_and_a_reduction(kind: str) -> None:
    shape = (64, 512)
    whole = cost(kind, [shape, shape], [shape], ON, axis=1)
    one_row_a_tile = reduction(ON, Layout.of(shape, HALF, TILES), (0,), HALF)
    assert one_row_a_tile.compute_sets == 1
    assert whole.compute_sets == 3 + 1
    assert whole.flops == 4 * 64 * 512


def test_the_loss_on_labels() -> None:
    shape, labels = (64, 512), (64,)
    layout, sums = Layout.of(shape, HALF, TILES), Layout.of((64,), FLOAT, TILES)
    types: Dict[str, object] = {"elements": (HALF, INT32)}
    chosen = [
        fill_pass(ON, layout),
        small_pass(ON, 1, "eq"),
        Cost(exchange_cycles=1, moved_bytes=64 * 4),
        binary_pass(ON, layout, "mul", in_place=True),
        reduction(ON, layout, (0,), HALF),
    ]
    assert_same_work(
        cost("nll_loss", [shape, labels], [()], ON, reduction="mean", **types),
        *chosen,
        reduction(ON, sums, (), FLOAT),
    )
    assert_same_work(
        cost("nll_loss", [shape, labels], [labels], ON, reduction="none", **types),
        *chosen,
        unary_pass(ON, sums, "neg", in_place=True),
    )
    assert_same_work(
        cost("nll_softmax_grad", [shape, labels, ()], [shape], ON, reduction="mean", **types),
        *chosen[:3],
        unary_pass(ON, layout, "exp"),
        binary_pass(ON, layout, "sub", in_place=True),
        small_pass(ON, 1, "div"),
        scalar_pass(ON, layout, "mul"),
    )


@pytest.mark.parametrize("reduced", ["sum", "mean", "none"])
def test_a_loss_that_is_a_number_already_is_free(reduced: str) -> None:
    assert cost("identity_loss", [()], [()], ON, reduction=reduced) == Cost()


def test_a_loss_of_many_elements_is_reduced() -> None:
    layout = Layout.of(X, HALF, TILES)
    summed = cost("identity_loss", [X], [()], ON, reduction="sum")
    assert_same_work(summed, reduction(ON, layout, (), HALF))
    mean = cost("identity_loss", [X], [()], ON, reduction="mean")
    assert mean.compute_sets == summed.compute_sets + 1
    assert cost("identity_loss", [X], [X], ON, reduction="none") == Cost()
