"""Tensors that the backward pass computes anew."""

import pytest

from app.ipu_model.graph import GraphError, Phase
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import chain


def test_the_backward_pass_reads_a_fresh_copy_from_the_operation_s_operands() -> None:
    forward = chain(2)
    activations = frozenset(op.outputs[0] for op in forward.ops if op.function == "silu")
    lowered = lower(forward, Execution(rematerialised=activations, host_transfers=False))
    validate(lowered)
    repeated = [op for op in lowered.ops if op.kind == "unary" and op.phase is Phase.BACKWARD]
    # the last block's activation feeds the mean, whose gradient does not read it
    assert [op.scope for op in repeated] == ["block0"]
    readers = [op for op in lowered.ops if repeated[0].outputs[0] in op.inputs]
    assert [op.kind for op in readers] == ["conv_weight_grad"]
    kept = {id for op in lowered.in_phase(Phase.BACKWARD) for id in op.inputs}
    assert not kept & activations


def test_a_chain_of_them_starts_from_what_is_kept() -> None:
    forward = chain(2)
    first = [op for op in forward.ops if op.scope == "block0" and op.kind != "conv"]
    inside = frozenset(op.outputs[0] for op in first)
    lowered = lower(forward, Execution(rematerialised=inside, host_transfers=False))
    validate(lowered)
    repeated = [
        op.kind
        for op in lowered.in_phase(Phase.BACKWARD)
        if op.scope == "block0" and op.kind in ("group_norm", "unary")
    ]
    assert repeated == ["group_norm", "unary"]


def test_a_tensor_that_nothing_makes_is_refused() -> None:
    forward = chain(1)
    with pytest.raises(GraphError, match="no forward operation makes"):
        lower(forward, Execution(rematerialised=frozenset(forward.inputs)))
