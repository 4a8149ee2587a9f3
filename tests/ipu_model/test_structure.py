"""Nested values and the program's own types: as arguments, as outputs, and compared."""

import collections
import sys
import types
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._data.structure import (
    ICustomArgParser,
    map_tensors,
    registerCustomArgParser,
    registerGeometricCustomArgParsers,
    tensors_of,
)


class Graph:
    """Nodes and edges, and a label that is no tensor."""

    def __init__(self, nodes: Tensor, edges: Tensor, label: str = "g") -> None:
        self.nodes, self.edges, self.label = nodes, edges, label


class Weighted(Graph):
    """A type derived from one that is registered."""


class GraphParser(ICustomArgParser):
    def yieldTensors(self, struct: Graph) -> Iterator[Tensor]:
        yield struct.nodes
        yield struct.edges

    def reconstruct(self, original_structure: Graph, tensor_iterator: Iterator[Tensor]) -> Graph:
        return type(original_structure)(
            next(tensor_iterator), next(tensor_iterator), original_structure.label
        )


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registerCustomArgParser(Graph, GraphParser())
    yield
    registerCustomArgParser(Graph, None)


class Point(NamedTuple):
    x: Any
    y: Any


class Table(collections.OrderedDict):  # type: ignore[type-arg]
    """A dictionary with a type of its own."""


A, B = torch.arange(4.0), torch.ones(4, 2)
NESTED = [
    A,
    (A, [B, 3], "text", None),
    Point(A, {"b": B, "n": 1.5}),
    Table(b=B, a=A),
    collections.defaultdict(list, {"a": A}),
    Graph(A, B),
    [Weighted(A, B), (Graph(B, A),)],
    (),
]


@pytest.mark.parametrize("value", NESTED)
def test_tensors_are_replaced_and_the_rest_stays(value: Any) -> None:
    doubled = map_tensors(value, lambda tensor: 2 * tensor)
    assert type(doubled) is type(value)
    assert map_tensors(doubled, lambda _: 0) == map_tensors(value, lambda _: 0) or isinstance(
        value, (Graph, list)
    )
    before, after = tensors_of(value), tensors_of(doubled)
    assert [2 * t for t in map(torch.sum, before)] == list(map(torch.sum, after))


def test_dictionaries_keep_their_order() -> None:
    assert list(map_tensors(Table(b=B, a=A), torch.sum)) == ["b", "a"]


def test_a_registration_can_be_taken_back() -> None:
    registerCustomArgParser(Graph, None)
    assert tensors_of(Graph(A, B)) == []
    registerCustomArgParser(Graph, None)


def test_the_parser_of_the_exact_type_comes_first() -> None:
    class Reversed(GraphParser):
        def yieldTensors(self, struct: Graph) -> Iterator[Tensor]:
            yield struct.edges

    registerCustomArgParser(Weighted, Reversed())
    try:
        assert tensors_of(Weighted(A, B)) == [B]
    finally:
        registerCustomArgParser(Weighted, None)


def test_parsers_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ICustomArgParser()  # type: ignore[abstract]


# ---- through an executor


class SumOf(nn.Module):
    def forward(self, graph: Graph, scale: Optional[Tensor] = None) -> Any:
        return Graph(graph.nodes + 1, graph.edges.sum(), graph.label), len(graph.nodes)


def executor() -> poptorch.PoplarExecutor:
    return poptorch.inferenceModel(SumOf(), poptorch.Options().deviceIterations(2))


def test_arguments_and_outputs_may_be_of_registered_types() -> None:
    graph, length = executor()(Graph(A, B, "mine"))
    assert (type(graph), graph.label, length) == (Graph, "mine", 2)
    assert torch.equal(graph.nodes, A + 1)
    assert torch.equal(graph.edges, torch.tensor([4.0, 4.0]))


def test_registered_types_are_compared_by_their_tensors() -> None:
    model = executor()
    model.compile(Graph(A, B))
    with pytest.raises(poptorch.Error, match=r"Shape mismatch for graph\[1\]"):
        model(Graph(A, B[:, :1]))
    with pytest.raises(poptorch.Error, match="Type mismatch for graph"):
        model(Weighted(A, B))


# ---- PyTorch Geometric


def test_geometric_parsers_need_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(poptorch.Error, match="torch_geometric is not installed"):
        registerGeometricCustomArgParsers()


class Data(Dict[str, Any]):
    """A stand-in with the part of Geometric's interface that is used."""


@pytest.mark.parametrize("keys_is_method", [True, False])
def test_geometric_graphs_are_taken_apart_by_name(
    keys_is_method: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = Data if keys_is_method else type("Old", (Data,), {"keys": property(list)})
    module: Any = types.ModuleType("torch_geometric.data")
    module.Data, module.Batch = kind, type("Batch", (kind,), {})
    monkeypatch.setitem(sys.modules, "torch_geometric", types.ModuleType("torch_geometric"))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", module)
    registerGeometricCustomArgParsers()
    try:
        data = kind(x=A, edge_index=B, size=3)
        assert tensors_of(data) == [B, A]
        negative: List[Tensor] = tensors_of(map_tensors(data, torch.neg))
        assert torch.equal(negative[1], -A)
        assert map_tensors(data, torch.neg)["size"] == 3
        assert data["x"] is A
    finally:
        registerCustomArgParser(kind, None)
        registerCustomArgParser(module.Batch, None)
