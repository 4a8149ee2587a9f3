"""Vertex formulas on cases worked out by hand."""

import numpy as np
import pytest

from app.ipu_model.cost.convolution import Candidate, DataType, Method, conv_params
from app.ipu_model.cost.convolution.reduction import cast_cycles, reduction_cycles, stage_depths
from app.ipu_model.cost.convolution.vertex_floor import vertex_floor
from app.ipu_model.cost.convolution.vertex_mac import vertex_cycles
from app.ipu_model.cost.convolution.workers import most_and_least
from tests.ipu_model.cost.presets import MK1, MK2, amp, context, tile

POINTWISE = conv_params(1, 64, 64, (1, 600), (1, 1))
THREE = conv_params(1, 64, 64, (20, 20), (3, 3))
DEPTHWISE = conv_params(1, 1, 1, (16, 16), (3, 3), groups=64)


def share(elements: int) -> int:
    """Elements of the worker with most."""
    return -(-elements // 6)


def half_up(elements: int) -> int:
    """Pairs that hold so many elements."""
    return -(-elements // 2)


def test_amp_1x1_by_hand() -> None:
    # 600 elements, 100 a worker; u = 16, half partials: c = 1, (s1, s2) = (7, 3), WL = 64.
    slow0, slow1 = 38 - 7 + 4 * 97, 38 - 1 - 7 + 4 * 97
    quick_adds = 14  # the least loaded worker works as long, so + 14 decides
    a0, a1 = 6 * slow0 + quick_adds, 6 * slow1 + quick_adds
    first = 2 * (19 - 1 + (7 + 64 + a1))
    later = 16 - 1 + 2 * (19 + (6 + 64 + a0))
    expected = 50 + 6 * (7 + 3 * (3 * 1 - 1)) + (12 + 1 + 2 * later + 11 + first)
    work = tile((1, 600), ins=3, outs=2)
    assert vertex_cycles(context(POINTWISE, amp()), work).tolist() == [expected]


def test_amp_nx1_by_hand() -> None:
    # 6 rows of 4, one row a worker; u = 8, float partials, 3x3 kernel, ci = 16.
    worker = 17 + (3 - 9 + 34 + 4 * 1)
    slowest = 6 * worker + 9
    passes, load = 2, 32
    inner = 3 * (14 + 3 * (12 + passes * (load + 15 + 3))) + 3 * 3 * passes * slowest
    zero = 6 * (half_up(share(6 * 4 * 16)) + 5)
    expected = 109 + 54 + 6 * 9 + (17 + 1) + 1 + (16 + (14 + (14 + inner))) + zero
    work = tile((6, 4), kernel=(3, 3))
    assert vertex_cycles(context(THREE, amp(units=8)), work).tolist() == [expected]


def test_slic_by_hand() -> None:
    # (4,1,1), C = 2, float partials; 6 rows of 3, one a worker; window 1x4 three times.
    candidate = Candidate(Method.SLIC, 4, 1, 1, DataType.FLOAT, units=2)
    zeroing = 6 * (17 + (10 + 1 + 3 + 2 * (13 + 3 - 1)))
    adding = 6 * (17 + (10 + 0 + 3 + 2 * (17 + 3 - 1)))
    sub = 97 + 20
    expected = 28 + 15 + 1 + 3 * sub + 6 * 2 + 1 + zeroing + 2 * adding
    work = tile((6, 3), kernel=(3, 3))
    assert vertex_cycles(context(DEPTHWISE, candidate), work).tolist() == [expected]


def test_vmac_of_sdk_2_0_by_hand() -> None:
    # 3x2 outputs: one row a worker; one input channel; kernel 5x7; float partials.
    candidate = Candidate(Method.VMAC, 4, 1, 1, DataType.FLOAT)
    worker = 6 + 5 * (20 + 2 * 6)
    expected = 100 + (4 + 6 + 32 + (24 + 6 * worker) + 10 + 19 * 1 // 4)
    work = tile((3, 2), kernel=(5, 7))
    assert vertex_cycles(context(DEPTHWISE, candidate, (2, 0)), work).tolist() == [expected]


def test_hmac_of_sdk_2_0_by_hand() -> None:
    # Six rows of 5 outputs, ci = 4, float partials: a dot product is 7 + 1 cycles.
    candidate = Candidate(Method.HMAC, 1, 4, 1, DataType.FLOAT)
    pieces = 19 + 5 * (7 + 8)
    inner = 6 * (16 + 9 * (16 + pieces))
    zero = 6 * (half_up(share(30)) + 5)
    expected = 63 + 6 * 9 + (23 + 15 + 10 + inner) + zero
    work = tile((6, 5), kernel=(3, 3))
    assert vertex_cycles(context(THREE, candidate, (2, 0)), work).tolist() == [expected]


def test_outer_product_by_hand() -> None:
    candidate = Candidate(Method.OUTER_PRODUCT, 1, 1, 4, DataType.HALF)
    expected = 6 * (25 + 3 * (10 + 2 * (10 + 10)))
    work = tile((1, 12), outs=3)
    assert vertex_cycles(context(POINTWISE, candidate), work).tolist() == [expected]


@pytest.mark.parametrize(("units", "rate"), [(16, 64), (8, 32)])
def test_amp_tends_to_four_macs_per_unit_and_cycle(units: int, rate: int) -> None:
    elements, grains = 60_000, 8
    work = tile((1, elements), ins=grains, outs=grains)
    cycles = int(vertex_cycles(context(POINTWISE, amp(out_grain=units, units=units)), work)[0])
    done = elements * grains * 16 * grains * units
    assert 0.98 * rate < done / cycles <= rate


def test_slic_with_four_chains_tends_to_64_macs_a_cycle() -> None:
    candidate = Candidate(Method.SLIC, 1, 4, 4, DataType.HALF, units=4)
    params = conv_params(1, 4, 4, (6, 9000), (1, 4))
    cycles = int(vertex_cycles(context(params, candidate), tile((6, 9000), kernel=(1, 4)))[0])
    assert 0.98 * 64 < 6 * 9000 * 4 * 16 / cycles <= 64


@pytest.mark.parametrize("release", [(2, 0), (2, 4), (3, 3)])
@pytest.mark.parametrize("units", [8, 16])
def test_floor_never_exceeds_the_formula(release: "tuple[int, int]", units: int) -> None:
    generator = np.random.default_rng(0)
    for params in (POINTWISE, THREE):
        for candidate in (
            amp(units=units),
            amp(in_grain=8, units=units, height=2),
            Candidate(Method.HMAC, 1, 6, 1, DataType.FLOAT),
            Candidate(Method.HMAC, 1, 8, 2, DataType.HALF),
            Candidate(Method.VMAC, 4, 1, 1, DataType.FLOAT),
            Candidate(Method.SLIC, 4, 1, 1, DataType.FLOAT, units=2),
        ):
            for _ in range(40):
                sizes = generator.integers(1, 20, 5)
                flat = params is POINTWISE
                work = tile(
                    (1 if flat else int(sizes[0]), int(sizes[1])),
                    kernel=(1, 1) if flat else (int(sizes[2]) % 3 + 1, 3),
                    groups=int(sizes[3]),
                    outs=int(sizes[4]) if candidate.method is Method.AMP else 1,
                )
                ctx = context(params, candidate, release)
                assert vertex_floor(ctx, work)[0] <= vertex_cycles(ctx, work)[0]


def test_float_input_runs_at_one_mac_per_unit() -> None:
    work = tile((1, 6000))
    ctx = context(POINTWISE, Candidate(Method.AMP, 1, 8, 16, DataType.FLOAT, 16))
    assert vertex_floor(ctx, work)[0] <= vertex_cycles(ctx, work)[0]


def test_workers_cut_their_shares_at_row_ends() -> None:
    rows, length = np.array([2]), np.array([5])
    pieces = []

    def cost(n: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> object:
        pieces.append(n)
        return 100 + n

    # Shares of 10: [0,1) [1,3) [3,5) [5,6) [6,8) [8,10); none crosses the row end at 5.
    most, least = most_and_least(rows, length, cost, 6)  # type: ignore[arg-type]
    assert (most.tolist(), least.tolist()) == ([102], [101])
    most, _ = most_and_least(np.array([4]), np.array([4]), cost, 6)  # type: ignore[arg-type]
    # Shares of 16: [0,2) [2,5) [5,8) [8,10) [10,13) [13,16): two of them span rows.
    assert most.tolist() == [203]


def test_cast_by_hand() -> None:
    # 100 elements: 17 a worker, nine vectors of two floats.
    cycles = cast_cycles(np.array([100]), DataType.FLOAT, DataType.HALF)
    assert cycles.tolist() == [6 * (26 + 9)]


@pytest.mark.parametrize(("depth", "stages"), [(1, 0), (15, 0), (16, 1), (124, 1), (125, 2)])
def test_deep_reductions_go_in_stages(depth: int, stages: int) -> None:
    assert len(stage_depths(depth)) == stages


def reduced(
    outputs: int, depth: int, target: object = MK2, output: DataType = DataType.HALF
) -> int:
    sizes = np.array([outputs]), np.array([depth])
    one = np.array([1])
    return int(reduction_cycles(*sizes, DataType.FLOAT, output, target, one)[0])  # type: ignore[arg-type]


def test_reduction_by_hand_in_both_forms() -> None:
    # 240 outputs of depth 3 are 60 lines of four floats, ten a worker.
    assert reduced(240, 3, MK2) == 33 + 6 * (20 + (2 * 2 + 7) * 10)
    assert reduced(240, 3, MK1) == 6 * (32 + (3 * 3 + 6) * 10)


def test_reduction_of_depth_one_is_a_cast_or_nothing() -> None:
    assert reduced(120, 1) == 6 * (26 + 10)
    assert reduced(120, 1, output=DataType.FLOAT) == 0
