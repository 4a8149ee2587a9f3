"""The batching law: micro-batch m = (s A + a) R + r of a call is its m-th equal part, and the
outputs of a call are those of the micro-batches that the mode returns, in the same order."""

from typing import Any, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from app.ipu_model import poptorch
from app.ipu_model.poptorch._data.arguments import ArgumentParser, Arguments
from app.ipu_model.poptorch._data.batching import Batching
from app.ipu_model.poptorch._data.outputs import OutputCollector
from app.ipu_model.poptorch.enums import CommGroupType, OutputMode

SIZES = st.integers(1, 3)
SHAPES = st.lists(st.integers(1, 3), max_size=2).map(tuple)
MODES = st.sampled_from([OutputMode.All, OutputMode.EveryN, OutputMode.Final, OutputMode.Sum])


def arguments_of(*tensors: Tensor) -> Arguments:
    return ArgumentParser(lambda *x: None).bind(tensors, {})


@given(SIZES, SIZES, SIZES, st.integers(0, 3), SHAPES)
def test_micro_batches_are_the_rows_of_a_reshape(
    iterations: int, accumulation: int, replicas: int, samples: int, shape: Tuple[int, ...]
) -> None:
    batching = Batching(iterations, accumulation, replicas)
    rows = torch.rand(iterations, accumulation, replicas, samples, *shape)
    call = arguments_of(rows.reshape(-1, *shape) if samples else rows.reshape(0, *shape))
    batching.check(call)
    order = [
        (s, a, r) for s in range(iterations) for a in range(accumulation) for r in range(replicas)
    ]
    for micro_batch, (s, a, r) in enumerate(order):
        (part,) = batching.cut(call, micro_batch).positional
        assert torch.equal(part, rows[s, a, r])


@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_replicas_of_a_group_read_the_same_part(
    iterations: int, accumulation: int, groups: int, size: int, orthogonal: bool
) -> None:
    kind = CommGroupType.Orthogonal if orthogonal else CommGroupType.Consecutive
    batching = Batching(iterations, accumulation, groups * size, size, kind)
    call = arguments_of(torch.arange(batching.slices))
    for step in range(iterations * accumulation):
        parts: List[int] = [
            int(batching.cut(call, step * groups * size + replica).positional[0])
            for replica in range(groups * size)
        ]
        expected = [step * groups + group for group in range(groups)]
        assert parts == (expected * size if orthogonal else sorted(expected * size))


@pytest.mark.parametrize("batch", [torch.ones(6, 2), torch.ones(9), torch.tensor(1.0)])
def test_every_tensor_must_hold_whole_parts(batch: Tensor) -> None:
    with pytest.raises(AssertionError) as caught:
        Batching(2, 3, 4, 2).check(arguments_of(torch.ones(12), batch))
    size = len(batch) if batch.dim() else 1
    assert str(caught.value).startswith(
        f"Invalid batch dimension: In the input {batch.shape}, the batch dimension ({size}) must "
        "be a multiple of Options.deviceIterations(2) * (Options.replicationFactor(4) / "
        "Options.inputReplicaGrouping.input_group_size(2)) * "
        "Options.Training.gradientAccumulation(3) = 12 because it is used to calculate the batch "
        "size which will be executed on the device in any given iteration."
    )


def test_batching_is_read_from_the_options() -> None:
    options = poptorch.Options().deviceIterations(2).replicationFactor(6)
    options.inputReplicaGrouping(3, CommGroupType.Orthogonal)
    options.Training.gradientAccumulation(4)
    batching = Batching.of(options)
    assert batching == Batching(2, 4, 6, 3, CommGroupType.Orthogonal)
    assert (batching.micro_batches, batching.slices) == (48, 16)


@given(st.integers(1, 2), SIZES, SIZES, SIZES, MODES, SHAPES, st.data())
def test_outputs_are_rows_of_a_reshape(
    periods: int,
    period: int,
    accumulation: int,
    replicas: int,
    mode: OutputMode,
    shape: Tuple[int, ...],
    data: Any,
) -> None:
    iterations = periods * period
    dtype = data.draw(st.sampled_from([torch.float32, torch.int64, torch.float16, torch.bool]))
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    options.outputMode(mode, period if mode is OutputMode.EveryN else None)
    collector = OutputCollector(options, accumulation)
    rows = torch.randint(0, 3, (iterations, accumulation, replicas, *shape)).to(dtype)
    for s in range(iterations):
        for a in range(accumulation):
            for r in range(replicas):
                collector.take(s, a, r, {"out": [rows[s, a, r]]})
    found = collector.result()["out"][0]

    if mode is OutputMode.Sum:
        total = rows.flatten(0, 1)
        kept = total.any(0) if dtype is torch.bool else total.sum(0, dtype=dtype)
    elif mode is OutputMode.Final:
        kept = rows[-1, -1]
    else:
        kept = rows[(period - 1 if mode is OutputMode.EveryN else 0) ::
                    (period if mode is OutputMode.EveryN else 1)].flatten(0, 2)  # fmt: skip
    multiplier = len(kept)
    expected = kept[0] if multiplier == 1 else (kept.flatten(0, 1) if shape else kept)
    assert found.dtype == (torch.int32 if dtype is torch.int64 else dtype)
    assert found.shape == expected.shape
    assert torch.equal(found, expected.to(found.dtype))
