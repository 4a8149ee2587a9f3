"""Operations on parameters alone, once per weight update."""

from typing import List

from app.ipu_model.graph import Element, Graph, Phase, Role
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import CHANNELS, Builder, chain, of_kind

ROW = (1, CHANNELS, 1, 1)
ACCUMULATING = Execution(gradient_accumulation=8, hoist_parameter_ops=True)


def proxy() -> Graph:
    """An activation divided by a statistic of a parameter that also scales it directly."""
    build = Builder()
    build.at(0, "proxy")
    x = build.conv(build.input(), "conv")
    weight = build.parameter("gain", (CHANNELS,))
    row = build.op("view", weight, shape=ROW, function="reshape")
    spread = build.op("unary", row, shape=ROW, function="exp")
    x = build.op("binary", build.op("binary", x, row, function="mul"), spread, function="mul")
    return build.loss(x)


def once_per_update(graph: Graph) -> List[str]:
    return [op.label for op in graph.in_phase(Phase.UPDATE) if op.kind != "view"]


def test_graphs_without_such_operations_do_not_change() -> None:
    hoisted = lower(chain(3, [1]), ACCUMULATING)
    plain = lower(chain(3, [1]), Execution(gradient_accumulation=8))
    assert hoisted.ops == plain.ops


def test_they_run_after_the_updates() -> None:
    lowered = lower(proxy(), ACCUMULATING)
    validate(lowered)
    assert [op.function for op in of_kind(lowered, "unary")] == ["exp"]
    assert once_per_update(lowered)[-1] == "unary.exp"
    assert once_per_update(lowered).count("update") == 2


def test_their_results_are_state() -> None:
    lowered = lower(proxy(), ACCUMULATING)
    (op,) = of_kind(lowered, "unary")
    assert lowered.tensors[op.outputs[0]].role is Role.STATE


def test_their_gradients_run_once_on_an_accumulated_gradient() -> None:
    lowered = lower(proxy(), ACCUMULATING)
    plain = lower(proxy(), Execution(gradient_accumulation=8))
    (late,) = (
        op
        for op in lowered.in_phase(Phase.UPDATE)
        if op.kind in ("unary_grad", "binary") and op.function in ("exp", "mul")
    )
    incoming = [tensor for tensor in lowered.operands(late) if tensor.name.startswith("accum")]
    assert [tensor.role for tensor in incoming] == [Role.STATE]
    # at the border: the statistic's gradient, and the parameter's own by the direct way
    accumulates = [op for op in of_kind(lowered, "accumulate") if op.phase is Phase.BACKWARD]
    assert len(accumulates) == len(of_kind(plain, "accumulate")) + 1


def test_one_micro_batch_needs_no_accumulator() -> None:
    lowered = lower(proxy(), Execution(hoist_parameter_ops=True))
    validate(lowered)
    assert not of_kind(lowered, "accumulate")
    assert "unary.exp" in once_per_update(lowered)


def test_weight_casts_stay_in_the_micro_batch() -> None:
    lowered = lower(
        proxy(),
        Execution(gradient_accumulation=8, hoist_parameter_ops=True, float_variables=True),
    )
    validate(lowered)
    casts = [op for op in of_kind(lowered, "cast") if op.phase is Phase.FORWARD]
    assert len(casts) == 2  # convolution weight, and the gain that scales directly
    assert "cast" in once_per_update(lowered)


def test_inference_hoists_too() -> None:
    lowered = lower(proxy(), Execution(mode="inference", hoist_parameter_ops=True))
    validate(lowered)
    assert once_per_update(lowered) == ["unary.exp"]


def test_results_cross_to_other_stages_by_copies() -> None:
    build = Builder()
    weight = build.parameter("gain", ROW)
    spread = build.op("unary", weight, shape=ROW, function="exp")
    x = build.op("binary", build.conv(build.input(), "conv"), spread, function="mul")
    build.at(1)
    graph = build.loss(build.op("binary", x, spread, function="mul"))
    lowered = lower(graph, ACCUMULATING)
    validate(lowered)
    shapes = [lowered.operands(op)[0].shape for op in of_kind(lowered, "inter_ipu_copy")]
    assert shapes.count(ROW) == 2  # the result forward, its gradient backward


def test_buffers_count_as_constants_unless_a_norm_updates_them() -> None:
    def hoisted(training: bool) -> List[str]:
        build = Builder()
        x = build.conv(build.input(), "conv")
        mean, variance = (
            build.graph.tensor((CHANNELS,), Element.FLOAT, Role.BUFFER).id for _ in range(2)
        )
        x = build.op("batch_norm", x, mean, variance, training=training, running=True, affine=False)
        row = build.op("unary", mean, shape=(CHANNELS,), function="exp")
        row = build.op("view", row, shape=ROW, function="reshape")
        graph = build.loss(build.op("binary", x, row, function="mul"))
        return once_per_update(lower(graph, Execution("inference", hoist_parameter_ops=True)))

    assert hoisted(training=False) == ["unary.exp"]
    assert hoisted(training=True) == []
