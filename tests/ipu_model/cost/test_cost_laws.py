"""What holds for all sizes, and a few golden values."""

from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.calibration import calibration
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from tests.ipu_model.cost.presets import MK1, MK2
from tests.ipu_model.cost.single_op import FLOAT, HALF, context, cost

Shape = Tuple[int, ...]

# kinds, how many operands and results they have, and attributes
ELEMENTWISE: List[Tuple[str, int, int, Dict[str, Any]]] = [
    ("binary", 2, 1, {"function": "add"}),
    ("binary", 1, 1, {"function": "mul", "scalar": 2.0}),
    ("unary", 1, 1, {"function": "relu"}),
    ("unary", 1, 1, {"function": "silu"}),
    ("unary_grad", 2, 1, {"function": "silu"}),
    ("unary_grad", 2, 1, {"function": "relu"}),
    ("select", 3, 1, {}),
    ("cast", 1, 1, {}),
    ("random", 0, 1, {"function": "bernoulli"}),
    ("copy", 1, 1, {"function": "copy"}),
    ("concat", 1, 1, {}),
    ("stash", 1, 1, {}),
    ("inter_ipu_copy", 1, 1, {}),
    ("all_reduce", 1, 1, {}),
    ("accumulate", 2, 0, {}),
    ("update", 4, 0, {"optimizer": "rmsprop"}),
    ("unknown", 1, 1, {}),
]
BATCHED: List[Tuple[str, Dict[str, Any]]] = [
    ("group_norm", {"groups": 1, "affine": True}),
    ("batch_norm", {"training": True, "running": True, "affine": True}),
    ("group_norm_grad", {"groups": 1, "affine": True}),
    ("softmax", {"axis": 1}),
    ("softmax_grad", {"axis": 1}),
    ("reduce", {"function": "sum", "axes": (0, 2, 3)}),
]


def of_elements(
    kind: str, operands: int, results: int, elements: int, tiles: int, **details: Any
) -> Cost:
    shape = (elements,)
    return cost(kind, [shape] * operands, [shape] * results, context(tiles), **details)


@settings(max_examples=60)
@given(
    st.sampled_from(ELEMENTWISE),
    st.integers(1, 200_000),
    st.integers(0, 50_000),
    st.sampled_from([HALF, FLOAT]),
)
def test_more_elements_are_never_cheaper(
    kind: "tuple[str, int, int, dict[str, Any]]", elements: int, more: int, element: Any
) -> None:
    name, operands, results, attributes = kind
    few, many = (
        of_elements(name, operands, results, size, 100, element=element, **attributes)
        for size in (elements, elements + more)
    )
    assert few.cycles <= many.cycles
    assert few.flops <= many.flops
    assert few.temporary_tile_bytes <= many.temporary_tile_bytes


@settings(max_examples=60)
@given(
    st.sampled_from(ELEMENTWISE),
    st.integers(100_000, 1_000_000),
    st.integers(1, 500),
    st.integers(0, 500),
)
def test_more_tiles_are_never_slower_for_large_tensors(
    kind: "tuple[str, int, int, dict[str, Any]]", elements: int, tiles: int, more: int
) -> None:
    name, operands, results, attributes = kind
    few, many = (
        of_elements(name, operands, results, elements, count, **attributes)
        for count in (tiles, tiles + more)
    )
    assert many.cycles <= few.cycles
    assert many.flops == few.flops


@settings(max_examples=40)
@given(
    st.sampled_from([case for case in ELEMENTWISE if case[0] != "update"]),
    st.integers(16, 500).map(lambda vectors: 100 * 4 * vectors),
)
def test_float_is_never_cheaper_than_half(
    kind: "tuple[str, int, int, dict[str, Any]]", elements: int
) -> None:
    # Updates take roots and inverses, which half has to convert for. Whole vectors of both types
    # on each of 100 tiles, and at least the 128 B of half that lie together.
    name, operands, results, attributes = kind
    half, floats = (
        of_elements(name, operands, results, elements, 100, element=element, **attributes)
        for element in (HALF, FLOAT)
    )
    assert half.cycles <= floats.cycles
    assert half.flops == floats.flops


@settings(max_examples=40)
@given(
    st.sampled_from(BATCHED),
    st.integers(1, 8),
    st.sampled_from([16, 24, 96]),
    st.integers(12, 24),
    st.sampled_from([HALF, FLOAT]),
)
def test_twice_the_batch_costs_more_but_not_more_for_each_sample(
    kind: "tuple[str, dict[str, Any]]", batch: int, channels: int, side: int, element: Any
) -> None:
    name, attributes = kind
    once, twice = (
        cost(
            name,
            [(size, channels, side, side), *[(channels,)] * 4],
            [(size, channels, side, side)],
            context(16),
            element=element,
            **attributes,
        )
        for size in (batch, 2 * batch)
    )
    assert once.cycles <= twice.cycles <= 2.1 * once.cycles
    assert once.flops < twice.flops


def test_the_clock_changes_no_cycle_and_the_chip_only_the_tiles() -> None:
    shape = (4, 96, 112, 112)
    bow = CostContext(MK2, calibration("bow"))
    mk2, mk1 = CostContext(MK2, calibration("mk2")), CostContext(MK1, calibration("mk1"))
    made = [
        cost("group_norm", [shape], [shape], on, groups=1, affine=False) for on in (bow, mk2, mk1)
    ]
    assert made[0] == made[1]
    assert made[2].cycles > made[1].cycles


@pytest.mark.parametrize(
    ("kind", "operands", "attributes", "golden"),
    [
        ("binary", 2, {"function": "add"}, (2633, 0, 100, 1)),
        ("unary", 1, {"function": "silu"}, (5106, 0, 200, 2)),
        ("unary_grad", 2, {"function": "silu"}, (7539, 0, 100, 1)),
    ],
)
def test_golden_values_of_the_first_expansion_of_efficientnet(
    kind: str, operands: int, attributes: "dict[str, Any]", golden: "tuple[int, ...]"
) -> None:
    shape = (4, 96, 112, 112)
    made = cost(kind, [shape] * operands, [shape], **attributes)
    found = (made.compute_cycles, made.exchange_cycles, made.sync_cycles, made.compute_sets)
    assert found == golden
