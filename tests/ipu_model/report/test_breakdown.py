"""Sums of cycles: nothing is lost and nothing counted twice."""

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.cost.cost import Cost
from app.ipu_model.report import breakdown
from app.ipu_model.simulation import OpCost
from tests.ipu_model.report.fixture import efficientnet, misfitting


def _op(scope: str, compute: float, repeats: int = 1, phase: str = "forward") -> OpCost:
    cost = Cost(compute_cycles=compute, exchange_cycles=3.0, sync_cycles=2.0)
    return OpCost(0, "conv", "conv", scope, 0, 0, phase, (1,), cost, repeats)


def test_an_operation_counts_as_often_as_it_runs() -> None:
    cycles = breakdown.busy(_op("a", 10.0, repeats=4))
    assert cycles == breakdown.Busy(40.0, 12.0, 8.0)
    assert cycles.cycles == 4 * (10 + 3 + 2)


def test_a_module_holds_its_own_and_its_submodules_cycles() -> None:
    root = breakdown.module_tree([_op("a", 10.0), _op("a.b", 20.0), _op("", 5.0)])
    parts = {node.path: node.cycles for node in root.ranked()}
    assert parts == {"a": 15.0 + 25.0, breakdown.NO_MODULE: 10.0}
    inner = {node.path: node.cycles for node in root.children["a"].ranked()}
    assert inner == {"a.b": 25.0, "a (itself)": 15.0}


scopes = st.lists(st.sampled_from(["a", "b", "c"]), max_size=4).map(".".join)
op_lists = st.lists(st.builds(_op, scopes, st.integers(0, 1000), st.integers(1, 9)), max_size=30)


@given(op_lists)
def test_modules_kinds_and_phases_each_add_up_to_all_cycles(ops: List[OpCost]) -> None:
    whole = breakdown.total(ops).cycles
    root = breakdown.module_tree(ops)
    assert root.cycles == pytest.approx(whole)
    assert sum(node.cycles for node in root.ranked()) == pytest.approx(whole)
    assert sum(n.cycles for n in breakdown.largest_modules(root, 10**6)) == pytest.approx(whole)
    for key in (lambda op: op.kind, lambda op: op.phase, lambda op: op.scope):
        assert sum(cycles.cycles for _, cycles in breakdown.by(key, ops)) == pytest.approx(whole)


def test_a_large_module_gives_way_to_its_submodules() -> None:
    ops = [_op("blocks.0.conv", 800.0), _op("blocks.1.conv", 700.0), _op("head", 10.0)]
    names = [node.path for node in breakdown.largest_modules(breakdown.module_tree(ops), 3)]
    assert names == ["blocks.0.conv", "blocks.1.conv", "head"]


def test_phases_stand_in_the_order_in_which_they_run() -> None:
    assert breakdown.phases(["update", "forward", "backward"]) == ["forward", "backward", "update"]


def test_the_ipu_to_look_at_is_that_of_the_misfit_or_the_fullest() -> None:
    fitting = efficientnet()
    largest = max(result.memory.peak_tile_bytes for result in fitting.per_ipu)
    assert breakdown.fullest(fitting).memory.peak_tile_bytes == largest
    found = misfitting()
    assert found.misfit is not None
    assert breakdown.fullest(found).ipu == found.misfit.ipu
