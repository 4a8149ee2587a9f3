"""Ways to batch, as a request admits them."""

from dataclasses import replace
from typing import Any, Set, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import find_system
from app.ipu_model.program import Execution
from app.ipu_model.target import Target
from app.planner.batching import Batching, batchings
from app.planner.request import Fixed, PlanError, Request

LAWS = settings(max_examples=100, deadline=None, database=None, derandomize=True)
POD16 = Target.of(find_system("ipu-pod16"))
TRAINING, INFERENCE = Execution(), Execution(mode="inference")


def request(global_batch: int, execution: Execution = TRAINING, **options: Any) -> Request:
    return Request(POD16, execution, global_batch, **options)


def shapes(found: Tuple[Batching, ...]) -> Set[Tuple[int, int, int, int]]:
    return {(each.stages, each.replicas, each.micro_batch, each.accumulation) for each in found}


@LAWS
@given(
    st.integers(1, 96),
    st.sampled_from([0, 1, 2, 4, 8, 16]),
    st.sampled_from([TRAINING, INFERENCE]),
    st.sampled_from(["throughput", "latency", "micro_batch"]),
)
def test_batchings_deal_out_the_global_batch(
    global_batch: int, ipus: int, execution: Execution, objective: Any
) -> None:
    asked = request(global_batch, execution, ipus=ipus, objective=objective)
    found = batchings(asked)
    assert len(found) == len(set(found)) > 0
    for each in found:
        assert each.micro_batch * each.accumulation * each.replicas == global_batch
        assert each.ipus == each.stages * each.replicas <= asked.most_ipus
        assert each.stages & (each.stages - 1) == each.replicas & (each.replicas - 1) == 0
        if execution.training and each.stages > 1:
            assert each.accumulation >= 2 * each.stages - 1
        if not execution.training:
            assert each.accumulation == 1
        if objective == "latency":
            assert each.replicas == 1


def test_all_ways_of_a_small_request() -> None:
    # 2 stages need an accumulation of 3, 4 stages one of 7
    assert shapes(batchings(request(8, ipus=4))) == {
        *((1, 4, micro_batch, 2 // micro_batch) for micro_batch in (1, 2)),
        (2, 2, 1, 4),
        (4, 1, 1, 8),
    }


def test_replicas_are_as_many_as_divide_the_global_batch() -> None:
    found = batchings(request(24, fixed=Fixed(stages=1)))
    assert {each.replicas for each in found} == {8}
    assert {each.micro_batch for each in found} == {1, 3}


def test_inference_takes_a_replicas_share_at_once() -> None:
    assert shapes(batchings(request(16, INFERENCE, ipus=4))) == {
        (1, 4, 4, 1),
        (2, 2, 8, 1),
        (4, 1, 16, 1),
    }


@pytest.mark.parametrize(
    ("fixed", "name", "value"),
    [
        (Fixed(stages=4), "stages", 4),
        (Fixed(stages=3), "stages", 3),
        (Fixed(splits=("blocks.1", "blocks.4")), "stages", 3),
        (Fixed(replicas=2), "replicas", 2),
        (Fixed(replicas=3), "replicas", 3),
        (Fixed(micro_batch=6), "micro_batch", 6),
    ],
)
def test_what_is_fixed_is_kept(fixed: Fixed, name: str, value: int) -> None:
    found = batchings(request(48 * 6, fixed=fixed))
    assert {getattr(each, name) for each in found} == {value}


@pytest.mark.parametrize(
    ("fixed", "kept"),
    [
        (Fixed(replicas=5), "16 IPUs with replicas 5 kept: "),
        (Fixed(stages=32), "16 IPUs with stages 32 kept: "),
        (Fixed(splits=("a",) * 16), "16 IPUs with stages 17 kept: "),
        (Fixed(stages=8, replicas=4), "16 IPUs with stages 8, replicas 4 kept: "),
        (Fixed(micro_batch=5), "16 IPUs with micro-batch 5 kept: "),
        (Fixed(stages=16, micro_batch=4), "16 IPUs with stages 16, micro-batch 4 kept: "),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(fixed: Fixed, kept: str) -> None:
    with pytest.raises(PlanError) as refused:
        batchings(request(64, fixed=fixed))
    assert str(refused.value) == (
        f"global_batch: 64 cannot be dealt out to {kept}it must be replicas x micro-batch x "
        "accumulation, and n > 1 stages need an accumulation of 2n - 1 at least; change it, or "
        "keep less"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch": 0}, "global_batch: must be at least 1, got 0"),
        ({"margin": 1.0}, r"margin: must lie in \[0, 1\), got 1.0"),
        ({"margin": -0.1}, r"margin: must lie in \[0, 1\), got -0.1"),
        (
            {"objective": "ipus"},
            "throughput: the objective 'ipus' needs the samples per second to reach; give them",
        ),
        ({"ipus": 17}, "ipus: IPU-POD16 has 16, got 17; ask for fewer"),
        ({"ipus": -1}, "ipus: IPU-POD16 has 16, got -1; ask for fewer"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(options: Any, message: str) -> None:
    with pytest.raises(PlanError, match=f"^{message}$"):
        replace(request(64), **options)


@pytest.mark.parametrize(("margin", "limit_bytes"), [(0.0, 638976), (0.05, 607027), (0.5, 319488)])
def test_the_margin_is_a_share_of_tile_memory(margin: float, limit_bytes: int) -> None:
    assert request(64, margin=margin).limit_bytes == limit_bytes
