"""What the backward pass and the weight update consist of."""

from typing import Any, Dict, List, Tuple

import pytest

from app.ipu_model.autodiff import grow_backward, grow_update
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Element, Graph, GraphError, Op, Phase, Role
from app.ipu_model.missing import MissingRule
from app.ipu_model.program import Execution, OptimizerState, ProgramError
from tests.ipu_model.graph_interpreter import Builder


def backward(graph: Graph) -> List[Op]:
    return list(graph.in_phase(Phase.BACKWARD))


def labels(graph: Graph) -> List[str]:
    return [op.label for op in backward(graph)]


def only(graph: Graph, kind: str) -> Op:
    (op,) = [op for op in graph.ops if op.kind == kind]
    return op


def multiply_adds(graph: Graph, op: Op) -> int:
    """Of a dense convolution's pass: each weight meets each output position of each sample."""
    x, w, y = (graph.tensors[id] for id in op.inputs + op.outputs)
    if op.kind == "conv_data_grad":
        x, w, y = y, w, x
    elif op.kind == "conv_weight_grad":
        x, w, y = x, y, w
    field = y.shape[2:]
    return y.shape[0] * field[0] * field[1] * w.elements


def test_the_first_convolution_has_a_weight_gradient_only() -> None:
    batch, width, size = 2, 8, 6
    net = Builder()
    x = net.input(batch, width, size, size)
    for _ in range(3):
        x = net.conv(x, net.parameter(width, width, 3, 3), padding=1)
    grown = grow_backward(net.graph, net.total(x))
    convs = [op for op in grown.ops if op.kind.startswith("conv")]
    assert [op.kind for op in convs] == [
        *["conv"] * 3,
        *["conv_data_grad", "conv_weight_grad"] * 2,
        "conv_weight_grad",
    ]
    one = batch * size * size * width * width * 9
    assert [multiply_adds(grown, op) for op in convs] == [one] * (3 + 2 * 3 - 1)


def test_a_convolutions_gradients_carry_its_attributes_and_the_sizes_they_make() -> None:
    net = Builder()
    x, w = net.parameter(2, 6, 9, 8), net.parameter(4, 3, 3, 2)
    y = net.conv(x, w, stride=2, padding=1, groups=2)
    grown = grow_backward(net.graph, net.total(y))
    forward, data, weight = (
        only(grown, f"conv{end}") for end in ("", "_data_grad", "_weight_grad")
    )
    (dy,) = {data.inputs[0], weight.inputs[1]}
    assert grown.tensors[dy].shape == grown.tensors[y].shape
    assert (data.inputs, data.outputs) == ((dy, w), (grown.gradients[x],))
    assert (weight.inputs, weight.outputs) == ((x, dy), (grown.gradients[w],))
    assert data.attributes == {**forward.attributes, "field": (9, 8)}
    assert weight.attributes == {**forward.attributes, "kernel": (3, 2)}


def test_a_transposed_convolution_has_gradients_of_its_own_kind() -> None:
    net = Builder()
    x, w = net.parameter(2, 6, 5), net.parameter(6, 4, 3)
    y = net.op("conv_transpose", [x, w], (2, 4, 7), stride=(1,), padding=((0, 0),), groups=1)
    grown = grow_backward(net.graph, net.total(y))
    data = only(grown, "conv_transpose_data_grad")
    weight = only(grown, "conv_transpose_weight_grad")
    assert (data.inputs[1], data.attributes["field"]) == (w, (5,))
    assert (weight.inputs[0], weight.attributes["kernel"]) == (x, (3,))


def test_a_matrix_product_has_two_products_that_name_their_pass() -> None:
    net = Builder()
    a, b = net.parameter(5, 2, 3), net.parameter(3, 4)
    grown = grow_backward(net.graph, net.total(net.matmul(a, b)))
    products = [op for op in backward(grown) if op.kind == "matmul"]
    assert [dict(op.attributes) for op in products] == [
        {"linear": True, "pass": "data_grad"},
        {"linear": True, "pass": "weight_grad"},
    ]
    shapes = [[grown.tensors[id].shape for id in op.inputs + op.outputs] for op in products]
    assert shapes == [[(5, 2, 4), (4, 3), (5, 2, 3)], [(5, 3, 2), (5, 2, 4), (5, 3, 4)]]
    assert labels(grown)[-2:] == ["reduce.sum", "view.reshape"]  # over the batch of 5


NORMS = [
    ("group_norm", 2, {"groups": 2}, ()),
    ("layer_norm", 2, {"axes": 3}, ()),
    ("group_norm", 1, {"groups": 2}, ()),
    ("group_norm", 0, {"groups": 2}, ()),
    ("batch_norm", 2, {"training": True, "running": True}, (4, 4)),
    ("batch_norm", 0, {"training": True, "running": False}, ()),
]


@pytest.mark.parametrize(("kind", "affine", "attributes", "running"), NORMS)
def test_a_norms_gradients_are_one_operation(
    kind: str, affine: int, attributes: Dict[str, Any], running: Tuple[int, ...]
) -> None:
    net = Builder()
    x = net.parameter(2, 4, 6, 6)
    scale = [net.parameter(4) for _ in range(affine)]
    buffers = [net.graph.tensor((n,), Element.FLOAT, Role.BUFFER).id for n in running]
    shapes = [(2, 4, 6, 6), (2, 2), (2, 2)]
    y = net.op(kind, [x, *scale, *buffers], *shapes, affine=bool(affine), **attributes)
    grown = grow_backward(net.graph, net.total(y))
    op = only(grown, f"{kind}_grad")
    assert op.inputs[:-1] == (x, y + 1, y + 2, *scale[:1])
    assert grown.tensors[op.inputs[-1]].shape == (2, 4, 6, 6)
    assert op.outputs == tuple(grown.gradients[id] for id in (x, *scale))
    assert op.attributes == only(grown, kind).attributes


def test_a_batch_norm_that_does_not_train_uses_its_running_statistics() -> None:
    net = Builder()
    x, weight, bias = net.parameter(2, 4, 6), net.parameter(4), net.parameter(4)
    mean, variance = net.input(4), net.input(4)
    operands = [x, weight, bias, mean, variance]
    y = net.op("batch_norm", operands, (2, 4, 6), training=False, running=True, affine=True)
    grown = grow_backward(net.graph, net.total(y))
    assert only(grown, "batch_norm_grad").inputs[:-1] == (x, mean, variance, weight)


@pytest.mark.parametrize(
    ("function", "saved"), [("relu", "y"), ("clamp", "y"), ("silu", "x"), ("gelu", "x")]
)
def test_an_activations_gradient_reads_what_popart_saves(function: str, saved: str) -> None:
    net = Builder()
    x = net.parameter(3)
    y = net.unary(function, x, min=0.5)
    op = only(grow_backward(net.graph, net.total(y)), "unary_grad")
    assert op.inputs[1] == {"x": x, "y": y}[saved]
    assert op.attributes == {"function": function, "min": 0.5}


def test_pooling_and_resizing() -> None:
    net = Builder()
    x = net.parameter(1, 2, 6, 6)
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    pooled = net.op("max_pool", [x], (1, 2, 3, 3), **window)
    mean = net.op("avg_pool", [pooled], (1, 2, 2, 2), **window)
    wide = net.op("resize", [mean], (1, 2, 8, 8), mode="nearest")
    grown = grow_backward(net.graph, net.total(wide))
    back = only(grown, "max_pool_grad")
    assert (back.inputs[:2], back.outputs) == ((x, pooled), (grown.gradients[x],))
    assert only(grown, "avg_pool_grad").attributes == {**window, "field": (3, 3)}
    assert only(grown, "resize_grad").attributes == {"mode": "nearest", "field": (2, 2)}


def test_sorted_values_go_back_to_their_places() -> None:
    net = Builder()
    x = net.parameter(3, 5)
    graph = net.graph
    values = graph.tensor((3, 2), Element.FLOAT).id
    indices = graph.tensor((3, 2), Element.INT32).id
    graph.add("sort", [x], [values, indices], {"axis": 1, "count": 2})
    op = only(grow_backward(graph, net.total(values)), "scatter")
    assert op.inputs[1] == indices
    assert op.attributes == {"axis": 1, "function": "elements_set"}


def classifier(readers: int = 1) -> Builder:
    net = Builder()
    x, targets = net.parameter(3, 4), net.input(3, element=Element.INT32)
    probabilities = net.op("log_softmax", [x], (3, 4), axis=1)
    loss = net.op("nll_loss", [probabilities, targets], (), reduction="mean")
    for _ in range(1, readers):
        loss = net.binary("add", loss, net.reduce("sum", probabilities, (0, 1)))
    net.graph.outputs = [loss]
    return net


def test_softmax_and_negative_log_likelihood_have_one_gradient() -> None:
    grown = grow_backward(classifier().graph)
    assert labels(grown) == ["fill", "nll_softmax_grad"]
    assert only(grown, "nll_softmax_grad").attributes == {"axis": 1, "reduction": "mean"}


def test_softmax_keeps_its_gradient_where_something_else_reads_it() -> None:
    found = labels(grow_backward(classifier(readers=2).graph))
    assert {"nll_loss_grad", "log_softmax_grad"} <= set(found)
    assert "nll_softmax_grad" not in found


def test_gradients_of_all_slices_are_joined_and_those_of_some_padded() -> None:
    net = Builder()
    x = net.unary("silu", net.parameter(2, 6))
    parts = [net.slice(x, 1, start, start + 2) for start in (0, 2, 4)]
    found = labels(grow_backward(net.graph, net.total(*(net.unary("tanh", p) for p in parts))))
    assert (found.count("concat"), found.count("copy.pad"), found.count("binary.add")) == (1, 0, 0)
    found = labels(grow_backward(net.graph, net.total(net.unary("tanh", parts[1]))))
    assert (found.count("concat"), found.count("copy.pad"), found.count("binary.add")) == (0, 1, 0)


def test_gradients_that_meet_are_summed_in_place() -> None:
    net = Builder()
    x = net.parameter(3)
    branches = [net.unary("silu", x) for _ in range(3)]
    grown = grow_backward(net.graph, net.total(*branches))
    sums = [op for op in backward(grown) if op.label == "binary.add"]
    assert [op.attributes["in_place"] for op in sums] == [True, True]
    assert sums[-1].outputs == (grown.gradients[x],)


def test_a_gradient_that_is_needed_later_is_not_overwritten() -> None:
    net = Builder()
    a, b = net.parameter(3), net.parameter(3)
    curved = net.unary("silu", a)
    both = net.binary("add", a, b)
    grown = grow_backward(net.graph, net.total(net.binary("add", curved, both)))
    total = grown.producers()[grown.gradients[a]]
    assert total.label == "binary.add"
    # b's gradient, which is also part of a's, comes first in time and second in the sum
    assert total.inputs[1] == grown.gradients[b]
    assert total.attributes["in_place"]


def test_a_sum_of_two_gradients_that_are_needed_later_is_a_third() -> None:
    net = Builder()
    a, b, c = net.parameter(3), net.parameter(3), net.parameter(3)
    first, second = net.binary("add", a, b), net.binary("add", a, c)
    grown = grow_backward(net.graph, net.total(net.unary("silu", first), second))
    total = grown.producers()[grown.gradients[a]]
    assert set(total.inputs) == {grown.gradients[b], grown.gradients[c]}
    assert not total.attributes["in_place"]


def test_frozen_branches_get_no_operations() -> None:
    net = Builder()
    x = net.unary("silu", net.matmul(net.input(2, 3), net.parameter(3, 3, trainable=False)))
    head = net.parameter(3, 2)
    grown = grow_backward(net.graph, net.total(net.matmul(x, head)))
    assert list(grown.gradients) == [head]
    assert [op.attributes.get("pass") for op in backward(grown) if op.kind == "matmul"] == [
        "weight_grad"
    ]
    assert "unary_grad" not in {op.kind for op in backward(grown)}


def test_integers_and_what_is_detached_get_no_gradient() -> None:
    net = Builder()
    x = net.parameter(3)
    whole = net.op("cast", [x], (3,), element=Element.INT32)
    number = net.op("cast", [whole], (3,), element=Element.FLOAT)
    constant = net.op("view", [x], (3,), function="detach")
    y = net.binary("mul", net.binary("mul", x, number), constant)
    grown = grow_backward(net.graph, net.total(y))
    products = [op for op in backward(grown) if op.label == "binary.mul"]
    assert [op.inputs[1] for op in products[1:]] == [constant, number]


def test_no_gradient_is_made_for_nothing() -> None:
    net = Builder()
    x = net.input(2, 3, 6, 6)
    y = net.conv(x, net.parameter(4, 3, 3, 3))
    unused = net.unary("exp", y)
    y = net.binary("mul", net.unary("silu", y), net.input(4, 1, 1))
    grown = grow_backward(net.graph, net.total(y))
    read = {id for op in grown.ops for id in op.inputs} | set(grown.gradients.values())
    assert all(read & set(op.outputs) for op in backward(grown))
    assert unused not in read


def test_half_tensors_have_half_gradients_and_their_masters_whole_ones() -> None:
    net = Builder()
    master = net.parameter(3, 3)
    half = net.op("cast", [master], (3, 3), element=Element.HALF)
    y = net.matmul(net.input(2, 3, element=Element.HALF), half)
    loss = net.op("cast", [net.total(y)], (), element=Element.FLOAT)
    grown = grow_backward(net.graph, loss)
    assert grown.tensors[grown.gradients[master]].element is Element.FLOAT
    assert labels(grown)[-1] == "cast"
    product = next(op for op in backward(grown) if op.kind == "matmul")
    assert grown.tensors[product.outputs[0]].element is Element.HALF


def test_backward_operations_stand_where_the_forward_ones_do_in_reverse() -> None:
    net = Builder()
    x = net.input(2, 3)
    for stage, scope in enumerate(("stem", "head")):
        x = net.matmul(x, net.parameter(3, 3))
        net.graph.ops[-1] = net.graph.moved(net.graph.ops[-1], stage=stage, ipu=stage, scope=scope)
    grown = grow_backward(net.graph, net.total(x))
    forward = {op.id: op for op in grown.in_phase(Phase.FORWARD)}
    assert [op.forward_of for op in backward(grown)] == sorted(
        (op.forward_of for op in backward(grown)), reverse=True
    )
    for op in backward(grown):
        source = forward[op.forward_of]
        assert (op.scope, op.stage, op.ipu) == (source.scope, source.stage, source.ipu)
    assert backward(grown)[-1].scope == "stem"


def test_the_forward_graph_is_left_alone() -> None:
    net = classifier()
    before = list(net.graph.ops)
    grown = grow_backward(net.graph)
    assert net.graph.ops == before == grown.ops[: len(before)]
    assert (net.graph.gradients, list(grown.copy().gradients)) == ({}, [0])


def test_the_loss_is_the_one_marked_or_the_last_output() -> None:
    net = Builder()
    marked = net.total(net.unary("silu", net.parameter(3)))
    other = net.total(net.unary("tanh", net.parameter(3)))
    net.graph.outputs = [other, marked]
    assert list(grow_backward(net.graph).gradients) == [net.graph.parameters[1].id]
    net = Builder()
    y = net.unary("silu", net.parameter(3))
    net.graph.outputs = [net.unary("tanh", y), y, net.input(3, element=Element.INT32)]
    assert labels(grow_backward(net.graph)) == ["fill", "unary_grad.silu"]


def test_a_graph_without_a_loss_is_refused() -> None:
    with pytest.raises(GraphError, match="no floating output: mark its loss"):
        grow_backward(Builder().graph)


def test_a_loss_that_no_parameter_changes_is_refused() -> None:
    net = Builder()
    net.parameter(3)
    with pytest.raises(GraphError, match="depends on no trainable parameter"):
        grow_backward(net.graph, net.total(net.input(3)))


@pytest.mark.parametrize(
    ("kind", "function", "file"),
    [
        ("fft", "", ""),
        ("scatter", "mul", "/indexing.py"),
        ("unary", "bessel", "/elementwise.py"),
        ("reduce", "prod", "/reductions.py"),
    ],
)
def test_a_kind_without_rule_is_named_with_its_module(kind: str, function: str, file: str) -> None:
    net = Builder()
    attributes = {"function": function} if function else {}
    y = net.op(kind, [net.parameter(3)], (1,), axes=(0,), keepdim=True, **attributes)
    net.graph.ops[-1] = net.graph.moved(net.graph.ops[-1], scope="blocks.2")
    label = f"{kind}.{function}" if function else kind
    with pytest.raises(MissingRule) as caught:
        grow_backward(net.graph, net.total(y))
    assert caught.value.op == f"gradient of {label}"
    assert (caught.value.module, caught.value.file) == (
        "blocks.2",
        f"app/ipu_model/autodiff{file}",
    )


def test_strides_that_only_order_elements_have_a_gradient_others_none() -> None:
    net = Builder()
    x = net.parameter(2, 3)
    same = net.op("view", [x], (2, 3, 1), function="as_strided")
    grown = grow_backward(net.graph, net.total(same))
    assert grown.tensors[grown.gradients[x]].shape == (2, 3)
    some = net.op("view", [x], (2, 2), function="as_strided")
    with pytest.raises(MissingRule, match="as_strided"):
        grow_backward(net.graph, net.total(some))


def test_only_padding_with_a_constant_has_a_gradient() -> None:
    net = Builder()
    mirrored = {"function": "pad", "padding": ((1, 1),), "mode": "reflect"}
    y = net.op("copy", [net.parameter(3)], (5,), **mirrored)
    with pytest.raises(MissingRule, match="gradient of copy"):
        grow_backward(net.graph, net.total(y))


def test_a_kind_has_one_rule() -> None:
    with pytest.raises(ValueError, match="conv: has a gradient rule already"):
        gradient("conv")(lambda growth, op, dy: None)


def test_unknown_operations_pass_gradients_through_themselves() -> None:
    net = Builder()
    x = net.parameter(3)
    y = net.op("unknown", [x], (3,), name="foreign")
    grown = grow_backward(net.graph, net.total(y))
    assert [op.label for op in backward(grown)][-1] == "unknown"
    assert grown.tensors[grown.gradients[x]].shape == (3,)


def trained() -> Graph:
    net = Builder()
    x = net.input(2, 3)
    for name in ("stem.weight", "head.weight"):
        x = net.matmul(x, net.parameter(3, 3, name=name))
        net.graph.ops[-1] = net.graph.moved(net.graph.ops[-1], scope=name.split(".", 1)[0])
    return grow_backward(net.graph, net.total(x))


def updates(graph: Graph) -> List[str]:
    return [op.kind for op in graph.ops if op.phase is Phase.UPDATE]


def test_gradients_go_straight_to_the_update_without_accumulation() -> None:
    graph = trained()
    grown = grow_update(graph, Execution())
    assert updates(grown) == ["update", "update"]
    assert [op for op in grown.ops if op.phase is not Phase.UPDATE] == graph.ops
    assert [op.inputs for op in grown.ops[-2:]] == list(graph.gradients.items())
    assert grown.of_role(Role.STATE) == []


def test_each_gradient_is_accumulated_as_soon_as_it_is_there() -> None:
    graph = trained()
    grown = grow_update(graph, Execution(gradient_accumulation=4, accumulator_element=Element.HALF))
    producers = grown.producers()
    for parameter, gradient_id in graph.gradients.items():
        made = grown.ops.index(producers[gradient_id])
        accumulate = grown.ops[made + 1]
        assert (accumulate.kind, accumulate.phase) == ("accumulate", Phase.BACKWARD)
        assert accumulate.scope == producers[gradient_id].scope
        total = grown.tensors[accumulate.inputs[1]]
        assert (accumulate.inputs[0], accumulate.outputs) == (gradient_id, ())
        assert (total.role, total.element, total.shape) == (Role.STATE, Element.HALF, (3, 3))
        assert total.name == f"accumulator/{grown.tensors[parameter].name}"
    assert updates(grown) == ["update", "update"]
    assert len({op.id for op in grown.ops}) == len(grown.ops)


def test_replicas_reduce_what_the_update_reads() -> None:
    graph = trained()
    for accumulation in (1, 4):
        grown = grow_update(graph, Execution(replicas=2, gradient_accumulation=accumulation))
        assert updates(grown) == ["all_reduce", "update"] * 2
        for reduce, update in zip(*(iter(list(grown.in_phase(Phase.UPDATE))),) * 2):
            assert update.inputs[1:] == reduce.outputs
            assert grown.operands(reduce)[0].role is (
                Role.STATE if accumulation > 1 else Role.ACTIVATION
            )


def test_the_optimiser_keeps_its_states_per_parameter() -> None:
    state = OptimizerState("adam", states=2, state_element=Element.HALF)
    grown = grow_update(trained(), Execution(optimizer=state))
    update = grown.ops[-1]
    assert update.attributes == {"optimizer": "adam", "states": 2}
    assert [(t.name, t.element, t.role) for t in grown.operands(update)[2:]] == [
        (f"state{index}/stem.weight", Element.HALF, Role.STATE) for index in (0, 1)
    ]


def test_combined_momentum_lives_in_the_accumulator_even_of_one_micro_batch() -> None:
    state = OptimizerState("sgd", states=0, combined_accumulator=True)
    grown = grow_update(trained(), Execution(optimizer=state))
    assert [t.name for t in grown.of_role(Role.STATE)] == [
        "accumulator/head.weight",
        "accumulator/stem.weight",
    ]
    assert [len(op.inputs) for op in grown.in_phase(Phase.UPDATE)] == [2, 2]


def test_inference_has_no_update() -> None:
    with pytest.raises(ProgramError, match="give a training one"):
        grow_update(trained(), Execution(mode="inference"))
