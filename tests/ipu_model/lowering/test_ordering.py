"""The order of a stage's operations."""

from hypothesis import given

from app.ipu_model.graph import Graph, Phase
from app.ipu_model.lowering.ordering import order_for_memory
from app.ipu_model.lowering.validation import validate
from tests.ipu_model.lowering.graphs import Builder, chain, work
from tests.ipu_model.lowering.test_laws import build as build_recipe
from tests.ipu_model.lowering.test_laws import recipes


def scopes(graph: Graph) -> "list[str]":
    return [op.scope for op in order_for_memory(graph).ops if op.scope]


def fork(side_shape: "tuple[int, ...]") -> Graph:
    """x forks: a side branch with a result of this shape, and a main branch of three."""
    build = Builder()
    x = build.conv(build.input(), "stem")
    build.at(0, "side")
    side = build.op("reduce", x, shape=side_shape, function="mean", axes=(), keepdim=True)
    main = x
    for index in range(3):
        build.at(0, f"main{index}")
        main = build.conv(main, f"w{index}")
    build.at(0, "join")
    return build.loss(build.op("binary", main, side, function="mul"))


def test_a_chain_has_one_order() -> None:
    graph = chain(3)
    assert order_for_memory(graph).ops == graph.ops


def test_a_small_side_branch_runs_early_since_its_source_dies() -> None:
    assert scopes(fork((4, 16, 1, 1)))[0] == "side"


def test_a_large_side_branch_waits_until_it_is_wanted() -> None:
    order = scopes(fork((4, 1024, 8, 8)))
    assert order.index("side") == order.index("join") - 1


@given(recipes())
def test_orders_hold_the_same_work_and_are_valid(recipe: "list[list[int]]") -> None:
    graph = build_recipe(recipe, [])
    ordered = order_for_memory(graph)
    validate(ordered)
    assert work(ordered, [Phase.FORWARD]) == work(graph, [Phase.FORWARD])


def test_stages_keep_their_order() -> None:
    graph = chain(4, cuts=[1, 3])
    assert [op.stage for op in order_for_memory(graph).ops] == [op.stage for op in graph.ops]
