"""Rules of single kinds: compute sets, work, exchange, temporaries, code, and their memo."""

import re
from dataclasses import replace

import pytest

import app.ipu_model.autodiff as autodiff
import app.ipu_model.graph as graph_module
from app.ipu_model.autodiff.elementwise import BINARY, FROM_OPERAND, FROM_RESULT, SIMPLE_UNARY
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.elementwise import COMPOSED
from app.ipu_model.cost.registry import RULES, rule
from app.ipu_model.cost.rules import op_cost
from app.ipu_model.cost.vertices.broadcast import channel_mul_cycles, row_cycles
from app.ipu_model.cost.vertices.elementwise import (
    activation_cycles,
    binary_cycles,
    copy_cycles,
    scalar_binary_cycles,
    scaled_add_cycles,
    unary_cycles,
)
from app.ipu_model.cost.vertices.slices import dynamic_slice_cycles
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Graph, Op, Role
from app.ipu_model.missing import MissingRule
from tests.ipu_model.cost.single_op import BOOL, FLOAT, HALF, INT32, context, cost, single

TILES = 64
ON = context(TILES)
# 512 elements on each of 64 tiles: 32 positions of 16 channels
X = (2, 64, 16, 16)
N = 512
WORK = TileWork(N, HALF)


def kinds_of(docstring: str) -> "set[str]":
    """Kinds named at the start of an indented line, after a full stop, or before a comma."""
    found = set()
    for line in docstring.splitlines():
        if re.match(r"    \w", line) and not line.strip().startswith("*"):
            head = re.split(r"\s{2,}|->", line.strip())[0]
            found |= set(re.findall(r"[a-z]+(?:_[a-z]+)*", head))
            found |= set(re.findall(r"[.] ([a-z_]+): ", line))
    return found


def test_every_kind_of_graphs_and_of_gradients_has_a_rule() -> None:
    documented = kinds_of(graph_module.__doc__ or "") | kinds_of(autodiff.__doc__ or "")
    assert {"conv", "log_softmax", "avg_pool", "scatter", "restore", "host_store"} <= documented
    assert "layer_norm_grad" in documented
    assert documented <= set(RULES)


def test_a_kind_without_rule_names_operation_module_and_where_to_add_one() -> None:
    graph, _ = single("binary", [X], [X])
    made = graph.add("fourier", (0,), (1,), scope="blocks.3.se")
    with pytest.raises(MissingRule, match=r"fourier.*blocks\.3\.se.*app/ipu_model/cost/kinds"):
        op_cost(graph, made, ON)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("unary", {"function": "bessel"}),
        ("unary_grad", {"function": "bessel"}),
        ("binary", {"function": "bessel", "scalar": 1.0}),
        ("reduce", {"function": "median", "axes": (0,)}),
        ("resize", {"mode": "lanczos"}),
        ("update", {"optimizer": "adafactor"}),
    ],
)
def test_a_function_without_formula_is_missing_too(
    kind: str, attributes: "dict[str, object]"
) -> None:
    graph, op = single(kind, [X, X], [X], **attributes)
    with pytest.raises(MissingRule, match=str(next(iter(attributes.values())))):
        op_cost(graph, op, ON)


def test_two_rules_for_a_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="binary: has a cost rule already, binary"):
        rule("binary")(lambda graph, op, context: Cost())


def test_an_elementwise_operation_is_one_compute_set_without_exchange() -> None:
    assert cost("binary", [X, X], [X], ON, function="add") == Cost(
        compute_cycles=binary_cycles("add", WORK),
        sync_cycles=100,
        flops=64 * N,
        compute_sets=1,
        code=cost("binary", [X, X], [X], ON, function="add").code,
    )


def test_single_elementwise_operations_share_no_code_and_equal_norms_do() -> None:
    (code,) = cost("binary", [X, X], [X], ON, function="add").code
    assert (code.signature, code.tile_bytes) == ((), 64 + 10)
    norm = {"groups": 1, "affine": False}
    first, second = (cost("group_norm", [X], [X, (2, 1), (2, 1)], ON, **norm) for _ in range(2))
    other = cost("group_norm", [X], [X, (2, 4), (2, 4)], ON, groups=4, affine=False)
    assert first.code == second.code != other.code
    assert first.code[0].signature != ()
    assert first.code[0].tile_bytes == (64 + 10) * first.compute_sets


def test_vertices_of_a_small_tensor_stand_on_few_tiles_and_its_control_on_all() -> None:
    small = (1, 64 * 10)  # 10 runs of 128 B
    (code,) = cost("binary", [small, small], [small], ON, function="add").code
    assert code.tile_bytes == pytest.approx(10 + 64 * 10 / ON.target.tiles)


def test_collectives_are_merged_into_one_call() -> None:
    codes = {cost("all_reduce", [shape], [shape], ON).code[0].signature for shape in (X, (7,))}
    assert codes == {("all_reduce",)}


def test_stable_statistics_take_one_more_pass_and_two_reductions() -> None:
    norm = {"groups": 1, "affine": False}
    results = [X, (2, 1), (2, 1)]
    stable = cost("group_norm", [X], results, replace(ON, stable_norm=True), **norm)
    joint = cost("group_norm", [X], results, ON, **norm)
    assert stable.cycles > joint.cycles
    assert stable.compute_sets > joint.compute_sets


def test_a_bias_is_sent_to_the_tiles_that_hold_its_channels() -> None:
    made = cost("binary", [X, (1, 64, 1, 1)], [X], ON, function="mul")
    assert made.compute_cycles == channel_mul_cycles(WORK, 16)
    assert made.exchange_cycles == 16 * 2 / 4
    assert made.moved_bytes == 64 * 16 * 2
    # squeeze-and-excite: a vector for each sample, of which a tile again needs one group
    assert made == cost("binary", [X, (2, 64, 1, 1)], [X], ON, function="mul")


def test_a_bias_of_the_last_axis_is_innermost() -> None:
    tokens = (64, 8, 64)
    made = cost("binary", [tokens, (64,)], [tokens], ON, function="mul")
    assert made.compute_cycles == channel_mul_cycles(WORK, 16)
    assert made.exchange_cycles == 64 * 2 / 4


def test_a_number_and_a_tensor_of_one_element_are_broadcast() -> None:
    made = cost("binary", [X], [X], ON, function="mul", scalar=2.0)
    assert made.compute_cycles == scalar_binary_cycles("mul", WORK)
    assert made.exchange_cycles == 0
    sent = cost("binary", [X, ()], [X], ON, function="mul")
    assert sent.compute_cycles == made.compute_cycles
    assert sent.exchange_cycles == 1


def test_a_value_for_each_row_is_broadcast_along_it() -> None:
    rows = (512, 64)
    made = cost("binary", [rows, (512, 1)], [rows], ON, function="sub")
    assert made.compute_cycles == row_cycles(WORK, 8, 64)
    assert made.exchange_cycles == 8 * 2 / 4


def test_an_operand_that_hardly_repeats_on_a_tile_is_laid_out_first() -> None:
    # position embedding: another vector for each token
    tokens = (64, 8, 64)
    made = cost("binary", [tokens, (8, 64)], [tokens], ON, function="add")
    assert made.compute_cycles == binary_cycles("add", WORK)
    assert made.exchange_cycles == N * 2 / 4


def test_comparisons_are_costed_by_what_is_compared() -> None:
    made = cost("binary", [X, X], [X], ON, elements=(HALF, HALF), element=BOOL, function="lt")
    assert made.compute_cycles == binary_cycles("lt", WORK)


def test_swish_out_of_place_is_a_copy_and_a_pass_in_place() -> None:
    made = cost("unary", [X], [X], ON, function="silu")
    assert made.compute_sets == 2
    assert made.compute_cycles == copy_cycles(WORK, 8) + activation_cycles("silu", WORK)
    in_place = cost("unary", [X], [X], ON, function="silu", in_place=True)
    assert (in_place.compute_sets, in_place.flops) == (1, 2 * 64 * N)


def test_a_composed_function_is_the_sum_of_its_steps() -> None:
    made = cost("unary", [X], [X], ON, function="hardswish")
    steps = (
        scalar_binary_cycles("mul", WORK),
        scalar_binary_cycles("add", WORK),
        unary_cycles("clamp", WORK, in_place=True),
        binary_cycles("mul", WORK, in_place=True),
    )
    assert (made.compute_sets, made.compute_cycles) == (4, sum(steps))


@pytest.mark.parametrize("kind", ["view", "fill"])
def test_expressions_and_constants_are_free(kind: str) -> None:
    assert cost(kind, [X], [X], ON, function="permute") == Cost()


def test_in_place_concatenation_is_a_view_and_else_a_copy_on_the_tiles() -> None:
    halves = (2, 32, 16, 16)
    assert cost("concat", [halves, halves], [X], ON, axis=1, in_place=True) == Cost()
    made = cost("concat", [halves, halves], [X], ON, axis=1)
    assert (made.compute_cycles, made.exchange_cycles) == (copy_cycles(WORK, 8), 0)


def test_copies_are_exchanged_and_reordered_one_element_at_a_time() -> None:
    plain = cost("copy", [X], [X], ON, function="copy")
    assert (plain.compute_cycles, plain.exchange_cycles) == (2 * N / 8, 2 * N / 4)
    assert plain.temporary_tile_bytes == 2 * N
    flipped = cost("copy", [X], [X], ON, function="flip", axes=(3,))
    assert (flipped.compute_cycles, flipped.exchange_cycles) == (N * 5 / 4, 2 * N / 4)


def test_stash_and_restore_move_one_micro_batch_of_the_slots() -> None:
    slots = (5, *X)
    stashed = cost("stash", [X], [slots], ON, slots=5)
    restored = cost("restore", [slots], [X], ON, slots=5)
    assert stashed.compute_cycles == restored.compute_cycles == dynamic_slice_cycles(WORK)
    assert stashed.exchange_cycles == 0


@pytest.mark.parametrize("kind", ["inter_ipu_copy", "host_load", "host_store", "all_reduce"])
def test_transfers_cost_their_exchange_on_the_chip(kind: str) -> None:
    operands, results = ([], [X]) if kind == "host_load" else ([X], [])
    made = cost(kind, operands, results, ON)
    assert (made.compute_cycles, made.exchange_cycles, made.sync_cycles) == (0, 2 * N / 4, 100)


def test_gathers_look_up_slices_and_scatters_update_them() -> None:
    table = cost("gather", [(1000, 64), (512,)], [(512, 64)], ON, elements=(HALF, INT32), axis=0)
    # 512 elements a tile: 8 slices of 64, two for a worker; the indices are sent everywhere
    assert table.compute_sets == 1
    assert table.compute_cycles == 6 * (13 + 2 * (19 + 2 * 32))
    assert table.exchange_cycles == (2 * N + 4 * 512) / 4
    added = cost(
        "scatter",
        [(1000, 64), (512,), (512, 64)],
        [(1000, 64)],
        ON,
        elements=(HALF, INT32),
        axis=0,
        function="add",
    )
    assert added.compute_sets == 2
    assert added.flops == 512 * 64


def test_sorting_takes_a_triangle_of_steps() -> None:
    shape = (4, 256)
    made = cost("sort", [shape], [shape, shape], ON, elements=(HALF, HALF, INT32), axis=1)
    assert made.compute_sets == 2 * (8 * 9 // 2)
    padded = cost("sort", [(4, 200)], [(4, 200), (4, 200)], ON, elements=(HALF, HALF), axis=1)
    assert padded.cycles == made.cycles


def test_a_cumulative_sum_is_a_product_with_a_triangle() -> None:
    rows, length = 64, 32
    made = cost("scan", [(rows, length)], [(rows, length)], ON, function="cumsum", axis=1)
    assert made.macs == rows * length * length


def test_a_mean_is_a_sum_and_a_small_scale() -> None:
    summed = cost("reduce", [X], [(2, 64)], ON, function="sum", axes=(2, 3), keepdim=False)
    mean = cost("reduce", [X], [(2, 64)], ON, function="mean", axes=(2, 3), keepdim=False)
    assert mean.compute_sets == summed.compute_sets + 1
    assert mean.compute_cycles - summed.compute_cycles == scalar_binary_cycles(
        "mul", TileWork(64, HALF)
    )


def test_an_unknown_operation_is_a_pass_over_each_operand() -> None:
    made = cost("unknown", [X, X], [X], ON)
    assert (made.compute_sets, made.compute_cycles) == (2, 2 * binary_cycles("add", WORK))


def test_pooling_reads_its_windows_and_their_border() -> None:
    pooled = (2, 64, 16, 16)
    made = cost(
        "max_pool", [(2, 64, 32, 32)], [pooled], ON, kernel=(2, 2), stride=(2, 2), padding=()
    )
    # two rows of 16 results read four of 32
    assert made.exchange_cycles == 16 * 4 * 32 * 2 / 4
    assert made.flops == 4 * 64 * N
    wide = cost(
        "max_pool", [(2, 64, 32, 32)], [pooled], ON, kernel=(3, 3), stride=(2, 2), padding=()
    )
    assert wide.exchange_cycles == 16 * 5 * 32 * 2 / 4


def test_gradients_of_pooling_gather_from_the_windows_over_each_element() -> None:
    wide, pooled = (2, 64, 16, 16), (2, 64, 8, 8)
    attributes = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}
    of_max = cost("max_pool_grad", [wide, pooled, pooled], [wide], ON, **attributes)
    of_mean = cost("avg_pool_grad", [pooled], [wide], ON, **attributes)
    # two rows of 16 lie under three rows of results, eight wide; a maximum reads results too
    assert of_mean.exchange_cycles == 16 * 3 * 8 * 2 / 4
    assert of_max.exchange_cycles == 2 * of_mean.exchange_cycles
    assert (of_max.compute_sets, of_mean.compute_sets) == (1, 2)
    assert of_max.flops == 4 * 64 * N
    assert of_mean.flops == 4 * 64 * N + 64 * N // 4


def test_resizing_copies_and_weighs_the_neighbours_along_each_dimension() -> None:
    narrow = (2, 64, 8, 8)
    nearest = cost("resize", [narrow], [X], ON, mode="nearest")
    linear = cost("resize", [narrow], [X], ON, mode="linear")
    assert nearest.compute_sets == 2
    assert nearest.flops == 0
    assert linear.compute_sets == 2 * (2 + 2 + 1)
    assert linear.flops == 2 * 3 * 64 * N
    taller = cost("resize", [(2, 64, 8, 16)], [X], ON, mode="linear")
    assert 2 * taller.cycles == linear.cycles
    assert cost("resize_grad", [X], [narrow], ON, mode="linear").cycles == linear.cycles


def test_an_index_of_an_extreme_and_both_moments_are_reduced_jointly() -> None:
    def reduced(function: str) -> Cost:
        return cost("reduce", [X], [(2, 64)], ON, element=FLOAT, function=function, axes=(2, 3))

    largest, index, spread = (reduced(name) for name in ("max", "argmax", "var"))
    assert index.compute_sets == largest.compute_sets
    assert index.compute_cycles == 2 * largest.compute_cycles == spread.compute_cycles
    assert reduced("std").compute_sets == spread.compute_sets + 1
    assert reduced("norm").compute_cycles < reduced("std").compute_cycles
    assert reduced("logsumexp").compute_sets == 2 * largest.compute_sets + 4


def test_every_function_with_a_gradient_has_costs_in_both_directions() -> None:
    for function in (*FROM_RESULT, *FROM_OPERAND):
        assert cost("unary", [X], [X], ON, function=function).cycles > 0
        assert cost("unary_grad", [X, X], [X], ON, function=function).cycles > 0
    for function in SIMPLE_UNARY:
        assert cost("unary", [X], [X], ON, function=function).cycles > 0
    for function in BINARY:
        assert cost("binary", [X, X], [X], ON, function=function).cycles > 0


@pytest.mark.parametrize("function", sorted(COMPOSED))
def test_composed_functions_have_a_compute_set_for_each_step(function: str) -> None:
    made = cost("unary", [X], [X], ON, function=function)
    assert made.compute_sets == len(COMPOSED[function])
    assert made.flops == len(COMPOSED[function]) * 64 * N


def test_accumulating_brings_the_gradient_to_the_weight() -> None:
    weight = (512, 64)
    made = cost("accumulate", [weight, weight], [], ON, elements=(HALF, FLOAT))
    assert made.compute_cycles == scaled_add_cycles(TileWork(N, FLOAT), HALF)
    assert made.exchange_cycles == 2 * N / 4
    assert made.flops == 2 * 64 * N


def test_an_update_counts_the_steps_of_its_optimizer() -> None:
    weight = (512, 64)

    def update(optimizer: str, states: int, role: Role = Role.ACTIVATION) -> Cost:
        operands = [weight] * (2 + states)
        types = (HALF, *[FLOAT] * (1 + states))
        return cost("update", operands, [], ON, elements=types, role=role, optimizer=optimizer)

    decay_and_step = scaled_add_cycles(TileWork(N, FLOAT), FLOAT) + scaled_add_cycles(
        TileWork(N, HALF), FLOAT
    )
    assert update("sgd", 0).compute_cycles == decay_and_step
    assert update("sgd", 1).compute_sets == 4
    assert update("rmsprop", 2).compute_sets == 8
    assert update("rmsprop", 1).compute_sets == 7
    assert update("adamw", 2).cycles == update("adam", 2).cycles
    assert update("lamb", 2).cycles > update("adam", 2).cycles
    # an accumulator is set to zero for the next update
    assert update("sgd", 0, Role.STATE).compute_sets == update("sgd", 0).compute_sets + 1


def test_a_small_weight_costs_little_less_than_its_compute_sets() -> None:
    made = cost("update", [(32,)] * 4, [], element=FLOAT, optimizer="rmsprop", states=2)
    assert made.sync_cycles == 8 * 100
    assert made.cycles < 8 * 600


def test_equal_operations_cost_the_same_whatever_their_names() -> None:
    one = cost("binary", [X, X], [X], ON, function="add")
    graph = Graph()
    for _ in range(5):
        graph.tensor((1,), FLOAT)
    ids = [graph.tensor(X, HALF, name=f"t{index}").id for index in range(3)]
    op = graph.add("binary", ids[:2], ids[2:], {"function": "add"}, scope="elsewhere", stage=3)
    assert op_cost(graph, op, ON) is one


def test_operations_that_are_alike_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(graph: Graph, op: Op, context: CostContext) -> Cost:
        asked.append(op.id)
        return Cost(compute_cycles=graph.tensors[op.inputs[0]].elements)

    monkeypatch.setitem(RULES, "counted", counted)
    graph = Graph()
    for index in range(2000):
        ids = [graph.tensor((4, 16 + index % 50), HALF).id for _ in range(2)]
        graph.add("counted", ids[:1], ids[1:], {"groups": [1, 2], "where": {"a": 1.5}})
    costs = [op_cost(graph, op, ON) for op in graph.ops]
    assert [cost.compute_cycles for cost in costs] == [
        4 * (16 + index % 50) for index in range(2000)
    ]
    assert len(asked) == 50
    op_cost(graph, graph.ops[0], context(TILES + 1))
    assert len(asked) == 51
