"""What is kept and what is recomputed."""

from typing import List

import pytest

from app.ipu_model.graph import Graph, GraphError, Op, Phase
from app.ipu_model.lowering import lower
from app.ipu_model.lowering.keeping import intervals
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import Builder, chain, labels, of_kind


def recomputed(graph: Graph, stage: int) -> List[str]:
    return [op.label for op in graph.in_phase(Phase.RECOMPUTE) if op.stage == stage]


def outputs_of(graph: Graph, kind: str) -> List[int]:
    return [op.outputs[0] for op in of_kind(graph, kind)]


def test_nothing_is_recomputed_by_default() -> None:
    assert not labels(lower(chain(3, [1]), Execution()), Phase.RECOMPUTE)


def test_a_pipeline_recomputes_all_stages_but_the_last() -> None:
    lowered = lower(chain(3, [1, 2]), Execution(recomputation="pipeline"))
    # the stage's result goes to the next IPU; no gradient reads it, so nobody computes it again
    assert recomputed(lowered, 0) == recomputed(lowered, 1) == ["conv", "group_norm"]
    assert recomputed(lowered, 2) == []


def test_the_last_stage_can_be_recomputed_too() -> None:
    execution = Execution(recomputation="pipeline", recompute_last_stage=True)
    lowered = lower(chain(2, [1]), execution)
    assert recomputed(lowered, 1) == ["conv", "group_norm"]


def test_without_a_cut_pipeline_recomputation_keeps_everything() -> None:
    assert not labels(lower(chain(3), Execution(recomputation="pipeline")), Phase.RECOMPUTE)


def test_a_checkpoint_on_the_last_stage_has_what_precedes_it_recomputed() -> None:
    forward = chain(3)
    checkpoint = outputs_of(forward, "unary")[1]
    execution = Execution(recomputation="pipeline", checkpoints=frozenset([checkpoint]))
    lowered = lower(forward, execution)
    scopes = [op.scope for op in lowered.in_phase(Phase.RECOMPUTE)]
    # block 1's activation is the checkpoint itself
    assert scopes == ["block0"] * 3 + ["block1"] * 2


def test_norm_only_recomputes_norms() -> None:
    lowered = lower(chain(3, [1]), Execution(recomputation="norm_only"))
    assert labels(lowered, Phase.RECOMPUTE) == ["group_norm"] * 3


def test_all_recomputes_what_gradients_read_except_checkpoints() -> None:
    forward = chain(3)
    (first, second, _) = outputs_of(forward, "unary")
    plain = lower(forward, Execution(recomputation="all"))
    assert labels(plain, Phase.RECOMPUTE).count("unary.silu") == 2
    stored = frozenset([first, second])
    kept = lower(forward, Execution(recomputation="all", checkpoints=stored))
    assert "unary.silu" not in labels(kept, Phase.RECOMPUTE)


def segments(graph: Graph) -> List[List[str]]:
    """Scopes of operations that are recomputed in one go, in the order of the program."""
    found: List[List[str]] = []
    previous: Phase = Phase.FORWARD
    for op in graph.in_phase(Phase.RECOMPUTE, Phase.BACKWARD):
        if op.phase is Phase.RECOMPUTE:
            if previous is not Phase.RECOMPUTE:
                found.append([])
            found[-1].append(op.scope)
        previous = op.phase
    return found


def test_one_segment_at_a_time_is_recomputed_last_first() -> None:
    forward = chain(3)
    checkpoints = frozenset(outputs_of(forward, "unary"))
    lowered = lower(forward, Execution(recomputation="all", checkpoints=checkpoints))
    assert segments(lowered) == [["block2"] * 2, ["block1"] * 2, ["block0"] * 2]


def test_without_checkpoints_all_is_one_segment() -> None:
    lowered = lower(chain(3), Execution(recomputation="all"))
    assert segments(lowered) == [["block0"] * 3 + ["block1"] * 3 + ["block2"] * 2]


def test_recomputation_names_its_original_and_makes_tensors_of_its_own() -> None:
    lowered = lower(chain(3, [1]), Execution(recomputation="all"))
    originals = {op.id: op for op in lowered.in_phase(Phase.FORWARD)}
    for op in lowered.in_phase(Phase.RECOMPUTE):
        assert op.forward_of is not None
        original: Op = originals[op.forward_of]
        assert (op.label, op.stage, op.ipu) == (original.label, original.stage, original.ipu)
        assert set(op.outputs).isdisjoint(original.outputs)


def test_random_numbers_are_drawn_again() -> None:
    build = Builder()
    x = build.conv(build.input(), "conv")
    mask = build.op("random", function="bernoulli")
    x = build.op("binary", x, mask, function="mul")
    graph = build.loss(build.conv(x, "last"))
    assert "random.bernoulli" in labels(
        lower(graph, Execution(recomputation="all")), Phase.RECOMPUTE
    )


def test_fills_are_not_made_again() -> None:
    build = Builder()
    x = build.conv(build.input(), "conv")
    x = build.op("binary", x, build.op("fill", value=2.0), function="mul")
    lowered = lower(build.loss(build.conv(x, "last")), Execution(recomputation="all"))
    assert "fill" not in labels(lowered, Phase.RECOMPUTE)
    assert "binary.mul" in labels(lowered, Phase.RECOMPUTE)


def test_weight_casts_are_recomputed() -> None:
    lowered = lower(chain(2, [1]), Execution(recomputation="pipeline", float_variables=True))
    # convolution and norm parameters of stage 0: the convolution's data gradient is not needed
    assert recomputed(lowered, 0).count("cast") == 3


def test_unknown_checkpoints_are_refused() -> None:
    with pytest.raises(GraphError, match=r"checkpoints: .* no tensors .*99999"):
        lower(chain(1), Execution(recomputation="all", checkpoints=frozenset([99999])))


@pytest.mark.parametrize("count", [1, 2, 5, 8, 25, 400, 1234])
def test_intervals_shrink_and_cover_all(count: int) -> None:
    cuts = list(intervals(count))
    sizes = [stop - start for start, stop in cuts]
    longest = int(0.75 * (int((2 * count) ** 0.5) - 1))
    assert sum(sizes) == count and cuts[0][0] == 0
    assert all(before[1] == after[0] for before, after in zip(cuts, cuts[1:]))
    assert sizes[:longest] == list(range(longest, 0, -1))
    assert set(sizes[longest:]) <= {1}


def test_standard_keeps_the_smallest_live_set_of_each_interval() -> None:
    """Ten operations: K = floor(3/4 (floor(sqrt 20) - 1)) = 2, intervals 0-1, 2, 3, ..."""
    build = Builder()
    x = build.input()
    wide = build.op("conv", x, build.parameter("w"), shape=(4, 64, 8, 8))
    narrow = build.op("conv", wide, build.parameter("v"), shape=(4, 16, 8, 8))
    for index in range(6):
        narrow = build.conv(narrow, f"conv{index}")
    graph = build.loss(narrow)
    assert len(graph.ops) == 10
    lowered = lower(graph, Execution(recomputation="standard"))
    (again,) = lowered.in_phase(Phase.RECOMPUTE)
    assert again.forward_of is not None and lowered.tensors[again.outputs[0]].shape[1] == 64


def test_checkpoints_that_the_program_marks_count_too() -> None:
    forward = chain(3)
    checkpoint = outputs_of(forward, "unary")[0]
    given = lower(forward, Execution(recomputation="all", checkpoints=frozenset([checkpoint])))
    forward.checkpoints.append(checkpoint)
    assert lower(forward, Execution(recomputation="all")).ops == given.ops
