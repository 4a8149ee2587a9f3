"""Graphs that contradict themselves."""

from dataclasses import replace

import pytest

from app.ipu_model.graph import GraphError
from app.ipu_model.lowering import validate
from tests.ipu_model.lowering.graphs import chain


def test_a_traced_graph_is_valid() -> None:
    validate(chain(2))


def test_reading_before_making_is_refused() -> None:
    graph = chain(1)
    graph.ops.reverse()
    with pytest.raises(GraphError, match="before it is made"):
        validate(graph)


def test_reading_on_another_ipu_is_refused() -> None:
    with pytest.raises(GraphError, match=r"on IPU 1 reads tensor .* of IPU 0; copy it"):
        validate(chain(2, [1]))


def test_making_twice_is_refused() -> None:
    graph = chain(1)
    graph.ops.append(replace(graph.ops[0], id=99))
    with pytest.raises(GraphError, match="made twice"):
        validate(graph)


def test_equal_ids_are_refused() -> None:
    graph = chain(1)
    graph.ops[1] = replace(graph.ops[1], id=graph.ops[0].id)
    with pytest.raises(GraphError, match="ids are unique"):
        validate(graph)


def test_unknown_tensors_are_refused() -> None:
    graph = chain(1)
    graph.ops[0] = replace(graph.ops[0], inputs=(999,))
    with pytest.raises(GraphError, match="tensor 999, which is not in the graph"):
        validate(graph)
