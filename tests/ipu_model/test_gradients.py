"""Reduction over accumulation steps, replicas and processes, in half and float32."""

import itertools
import struct
from typing import Any, List, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._optimizers.gradients import (
    AccumulatedGradients,
    Processes,
    SummedGradients,
    gradient_reduction,
)
from app.ipu_model.poptorch._optimizers.rounding import HALF_MAX, HalfRounding
from app.ipu_model.poptorch._optimizers.settings import choose_reduction_strategy
from tests.ipu_model.optim_reference import MEAN_POST, MEAN_RUNNING, SUM, Batching

HALF, FULL = torch.float16, torch.float32
REDUCTIONS = [MEAN_POST, MEAN_RUNNING, SUM]


def to_half(x: float) -> float:
    """The half next to x."""
    try:
        return float(struct.unpack("<e", struct.pack("<e", x))[0])
    except OverflowError:
        return HALF_MAX if x > 0 else -HALF_MAX


def weight(dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, dtype=dtype))


def reduced(
    reduction: Any, p: nn.Parameter, gradients: List[float], batching: Batching
) -> Optional[Tensor]:
    """Feed one update's gradients in the executor's order: the replica is the fastest index."""
    m = iter(gradients)
    for step, replica in itertools.product(range(batching.accumulation), range(batching.replicas)):
        gradient = torch.tensor([next(m)], dtype=p.dtype)
        # autograd adds to what is there
        p.grad = gradient if p.grad is None else p.grad + gradient
        reduction.take(replica, step)
    found: Optional[Tensor] = reduction.reduce()[0]
    assert p.grad is None
    return found


def by_hand(gradients: List[float], batching: Batching, reduction: Any, in_half: bool) -> float:
    """The table of reductions, with a half accumulator rounded whenever it is stored."""
    stored = to_half if in_half else float
    a, n = batching.accumulation, batching.replicas
    totals = []
    for replica in range(n):
        accumulator = 0.0
        for i in range(a):
            g = gradients[i * n + replica]
            if reduction == MEAN_RUNNING:
                accumulator = stored(accumulator * (i / (i + 1)) + g / (i + 1))
            else:
                accumulator = stored(accumulator + g)
        totals.append(accumulator)
    return stored(sum(totals) / (n if reduction == MEAN_RUNNING else 1))


BATCHINGS = st.builds(Batching, st.just(1), st.integers(1, 4), st.integers(1, 3))
NUMBERS = st.integers(-2048, 2048).map(lambda i: i / 64)  # halves, and exact in float32 sums


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    data=st.data(),
    batching=BATCHINGS,
    reduction=st.sampled_from(REDUCTIONS),
    weight_type=st.sampled_from([HALF, FULL]),
    accumulator_type=st.sampled_from([HALF, FULL, None]),
)
def test_reduction_is_the_table_s(
    data: Any, batching: Batching, reduction: Any, weight_type: Any, accumulator_type: Any
) -> None:
    count = batching.accumulation * batching.replicas
    gradients = data.draw(st.lists(NUMBERS, min_size=count, max_size=count))
    p = weight(weight_type)
    reduce = gradient_reduction(batching.options(reduction), [p], accumulator_type)
    found = reduced(reduce, p, gradients, batching)
    kept_in = weight_type
    if batching.accumulation > 1 and accumulator_type is not None:
        kept_in = accumulator_type
    assert found is not None
    assert found.dtype == kept_in
    expected = by_hand(gradients, batching, reduction, kept_in == HALF)
    if kept_in == HALF:
        # a float32 quotient next to a tie may fall to the other side than the exact one
        torch.testing.assert_close(float(found), expected, rtol=2**-9, atol=2**-14)
    else:
        torch.testing.assert_close(float(found), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "reduction, factor", [(MEAN_POST, 1 / (8 * 6)), (MEAN_RUNNING, 1 / 8), (SUM, 1 / 8)]
)
@pytest.mark.parametrize("accumulator_type", [HALF, FULL])
def test_factor_undoes_loss_scaling_and_the_sum(
    reduction: Any, factor: float, accumulator_type: Any
) -> None:
    options = Batching(1, 3, 2).options(reduction)
    assert gradient_reduction(options, [weight(FULL)], accumulator_type).factor(8.0) == factor


def test_half_accumulator_loses_what_is_below_its_spacing_at_every_step() -> None:
    p, batching = weight(HALF), Batching(1, 4, 1)
    gradients = [2048.0, 1.0, 1.0, 1.0]  # halves of this size are 2 apart: ties go to even
    for dtype, expected in ((HALF, 2048.0), (FULL, 2051.0)):
        found = reduced(gradient_reduction(batching.options(), [p], dtype), p, gradients, batching)
        assert found is not None
        assert float(found) == expected


def test_post_overflows_in_half_where_the_running_mean_does_not() -> None:
    p, batching = weight(FULL), Batching(1, 4, 2)
    results = [
        reduced(gradient_reduction(batching.options(r), [p], HALF), p, [5e4] * 8, batching)
        for r in (MEAN_POST, MEAN_RUNNING)
    ]
    assert [float(found) for found in results if found is not None] == [HALF_MAX, to_half(5e4)]


def test_stochastic_rounding_of_accumulators_repeats_with_the_seed_and_is_unbiased() -> None:
    p = nn.Parameter(torch.zeros(4000, dtype=HALF))
    rounding = HalfRounding(stochastic=True)
    results = []
    for seed in (1, 1, 2):
        rounding.seed(seed)
        reduction = gradient_reduction(Batching(1, 2, 1).options(), [p], HALF, rounding)
        for step, value in enumerate((2048.0, 0.5)):
            p.grad = torch.full_like(p, value)
            reduction.take(0, step)
        results.append(reduction.reduce()[0])
    assert torch.equal(results[0], results[1])  # type: ignore[arg-type]
    assert not torch.equal(results[0], results[2])  # type: ignore[arg-type]
    assert abs(float(results[0].double().mean()) - 2048.5) < 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=["mean", "running mean", "sum"])
@pytest.mark.parametrize("dtype", [HALF, FULL])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_two_processes_of_two_replicas_reduce_as_one_of_four(
    dtype: Any, reduction: Any, accumulation: int
) -> None:
    gradients = [i / 8 + 0.125 for i in range(4 * accumulation)]
    p = weight(dtype)
    together = Batching(1, accumulation, 4)
    whole = gradient_reduction(together.options(reduction), [p], dtype)
    expected = reduced(whole, p, gradients, together)

    apart, sent = Batching(1, accumulation, 2), []
    rows = [gradients[4 * a : 4 * a + 4] for a in range(accumulation)]
    parts = [[g for row in rows for g in row[2 * k : 2 * k + 2]] for k in range(2)]

    def send(tensors: List[Tensor]) -> None:
        sent.extend(tensor.clone() for tensor in tensors)

    def add(tensors: List[Tensor]) -> None:
        for tensor, other in zip(tensors, sent):
            tensor.add_(other)

    found = None
    for part, all_reduce in zip(parts, (send, add)):
        processes = Processes(2, all_reduce)
        half = gradient_reduction(apart.options(reduction), [p], dtype, processes=processes)
        assert half.factor(1.0) == whole.factor(1.0)
        found = reduced(half, p, part, apart)
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_float32_gradients_of_replicas_add_up_to_the_same_bits_in_any_order(
    accumulation: int,
) -> None:
    values = [
        1.0,
        2.0**-24,
        -1.0 / 3,
        2.0**-25 * 3,
        1e-3,
        -1e-7,
        0.1,
        7.0,
        -2.0 / 7,
        1e-5,
        0.3,
        5.0,
    ]
    batching = Batching(1, accumulation, 4)
    rows = [values[4 * a : 4 * a + 4] for a in range(accumulation)]
    bits = set()
    for order in itertools.permutations(range(4)):
        p = weight(FULL)
        reduction = gradient_reduction(batching.options(), [p])
        gradients = [row[replica] for row in rows for replica in order]
        total = reduced(reduction, p, gradients, batching)
        assert total is not None
        bits.add(float(total))
    assert len(bits) == 1


def test_float32_sums_of_one_replica_are_left_to_autograd_and_others_have_accumulators() -> None:
    assert isinstance(
        gradient_reduction(Batching(1, 2, 1).options(), [weight(FULL)]), SummedGradients
    )
    options = Batching(1, 2, 2).options()
    assert isinstance(gradient_reduction(options, [weight(FULL)]), AccumulatedGradients)
    for parameters, dtype in (([weight(HALF)], FULL), ([weight(FULL)], HALF)):
        reduction = gradient_reduction(options, parameters, dtype)
        assert isinstance(reduction, AccumulatedGradients)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [HALF, FULL])
def test_weight_the_loss_does_not_depend_on_has_no_gradient(dtype: Any, reduction: Any) -> None:
    used, unused = weight(dtype), weight(dtype)
    batching = Batching(1, 2, 2)
    reduce = gradient_reduction(batching.options(reduction), [used, unused], dtype)
    reduced(reduce, used, [1.0] * 4, batching)
    for step, replica in itertools.product(range(2), range(2)):
        used.grad = torch.ones_like(used)
        reduce.take(replica, step)
    found = reduce.reduce()
    assert found[0] is not None
    assert found[1] is None


def test_mean_reduction_strategy_of_half_accumulators_is_running() -> None:
    options = poptorch.Options()
    p = weight(FULL)
    plain = poptorch.optim.SGD([p], lr=0.1)
    half = poptorch.optim.SGD([p], lr=0.1, accum_type=HALF)
    combined = poptorch.optim.SGD([p], lr=0.1, accum_type=HALF, use_combined_accum=True)
    strategy = poptorch.MeanReductionStrategy
    options._freeze()
    for optimizer, expected in (
        (plain, strategy.Post),
        (combined, strategy.Post),
        (half, strategy.Running),
        (plain, strategy.Running),
    ):
        choose_reduction_strategy(optimizer, options, is_compiled=False)
        assert options.Training.meanAccumulationAndReplicationReductionStrategy == expected
        with pytest.raises(AttributeError):
            options.deviceIterations(2)
    choose_reduction_strategy(half, options, is_compiled=True)  # nothing would change
    with pytest.raises(
        ValueError,
        match=r"Invalid optimizer: the new optimizer would require changing options\.Training\."
        r"meanAccumulationAndReplicationReductionStrategy to poptorch\.MeanReductionStrategy\."
        r"Running but the executable is already compiled\.",
    ):
        choose_reduction_strategy(half, poptorch.Options(), is_compiled=True)
