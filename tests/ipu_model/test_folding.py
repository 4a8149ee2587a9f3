"""Batch norms of inference become biases of the convolutions before them."""

from app.ipu_model.folding import fold_batch_norms
from app.ipu_model.graph import Element, Graph, Role

SHAPE = (2, 8, 4, 4)
CONV = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}


def conv_and_norm(training: bool = False, read_twice: bool = False) -> Graph:
    graph = Graph()
    x = graph.tensor(SHAPE, Element.HALF, Role.INPUT)
    graph.inputs = [x.id]
    weight = graph.tensor((8, 8, 1, 1), Element.HALF, Role.PARAMETER, "conv.weight")
    y, z = graph.tensor(SHAPE, Element.HALF), graph.tensor(SHAPE, Element.HALF)
    graph.add("conv", [x.id, weight.id], [y.id], CONV, scope="conv")
    roles = [Role.PARAMETER, Role.PARAMETER, Role.BUFFER, Role.BUFFER]
    vectors = [graph.tensor((8,), Element.FLOAT, role, "bn") for role in roles]
    statistics = [graph.tensor((8,), Element.FLOAT) for _ in range(2)]
    attributes = {"training": training, "epsilon": 1e-5, "affine": True, "running": True}
    inputs = [y.id, *(vector.id for vector in vectors)]
    graph.add("batch_norm", inputs, [z.id, *(s.id for s in statistics)], attributes, scope="bn")
    graph.outputs = [z.id, y.id] if read_twice else [z.id]
    return graph


def test_a_norm_with_fixed_statistics_becomes_a_bias() -> None:
    graph = conv_and_norm()
    folded = fold_batch_norms(graph)
    conv, bias = folded.ops
    assert [op.kind for op in folded.ops] == ["conv", "binary"]
    assert bias.function == "add"
    assert bias.inputs[0] == conv.outputs[0]
    assert bias.outputs == (graph.outputs[0],)
    assert [tensor.shape for tensor in folded.parameters] == [(8, 8, 1, 1), (1, 8, 1, 1)]
    assert folded.of_role(Role.BUFFER) == []
    assert len(graph.ops) == 2
    assert graph.ops[1].kind == "batch_norm"


def test_a_norm_that_trains_stays() -> None:
    assert [op.kind for op in fold_batch_norms(conv_and_norm(training=True)).ops] == [
        "conv",
        "batch_norm",
    ]


def test_a_convolution_with_another_reader_keeps_its_norm() -> None:
    folded = fold_batch_norms(conv_and_norm(read_twice=True))
    assert [op.kind for op in folded.ops] == ["conv", "batch_norm"]
