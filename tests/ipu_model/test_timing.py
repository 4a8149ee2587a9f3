"""Simulated counters, latencies and cycle counts; compilation time and hooks."""

from datetime import timedelta
from typing import Any, List

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return poptorch.identity_loss(x * self.weight + y, "sum"), x + y, x - y


@pytest.mark.parametrize(
    ("mode", "period", "expected"),
    [
        (OutputMode.All, None, 4 * 3 * 2),
        (OutputMode.EveryN, 2, 2 * 3 * 2),
        (OutputMode.Final, None, 2),
        (OutputMode.Sum, None, 2),
    ],
)
def test_ticks_of_a_call(mode: OutputMode, period: Any, expected: int) -> None:
    options = poptorch.Options().deviceIterations(4).replicationFactor(2)
    options.Training.gradientAccumulation(3)
    options.outputMode(mode, period)
    executor = poptorch.trainingModel(Pair(), options)
    assert executor.getPerfCounters() == {
        "input": [[]], "input_complete": [[]], "output": [[]], "output_complete": [[]]
    }  # fmt: skip
    assert executor.getLatency() == (0.0, 0.0, 0.0)
    executor(torch.ones(24), torch.ones(24))
    counters = executor.getPerfCounters()
    assert [len(ticks) for ticks in counters["input"]] == [24, 24]
    assert [len(ticks) for ticks in counters["output_complete"]] == [expected] * 3
    times = counters["input"][0]
    assert times == sorted(times)
    latencies = (executor.getLatency(), executor.getHostIpuLatency(),
                 executor.getComputeLatency(), executor.getIpuHostLatency())  # fmt: skip
    for low, high, mean in latencies:
        assert 0 < low <= high
        assert low == pytest.approx(mean) or low < mean  # a mean of equal values may round
        assert mean == pytest.approx(high) or mean < high


def test_cycle_counts_must_be_asked_for_and_follow_a_run() -> None:
    quiet = poptorch.inferenceModel(Pair())
    with pytest.raises(poptorch.Error, match="Cycle count logging is disabled"):
        quiet.cycleCount()
    executor = poptorch.inferenceModel(Pair(), poptorch.Options().logCycleCount(True))
    executor.compile(torch.ones(1), torch.ones(1))
    with pytest.raises(poptorch.Error, match="Please run the model at least once"):
        executor.cycleCount()
    executor(torch.ones(1), torch.ones(1))
    assert isinstance(executor.cycleCount(), int)
    executor.destroy()
    with pytest.raises(poptorch.Error, match="Please run the model at least once"):
        executor.cycleCount()


def test_a_cycle_count_says_once_that_it_is_simulated(caplog: pytest.LogCaptureFixture) -> None:
    executor = poptorch.inferenceModel(Pair(), poptorch.Options().logCycleCount(True))
    executor(torch.ones(1), torch.ones(1))
    assert executor.cycleCount() == executor.cycleCount()
    assert caplog.text.count("cycles are simulated") == 1


def cycles(samples: int, iterations: int = 1, accumulation: int = 1, training: bool = True) -> int:
    """Cycles of a call on micro-batches of so many samples."""
    options = poptorch.Options().logCycleCount(True).deviceIterations(iterations)
    options.Training.gradientAccumulation(accumulation)
    wrap = poptorch.trainingModel if training else poptorch.inferenceModel
    executor = wrap(Pair(), options)
    batch = torch.ones(samples * iterations * accumulation, 64)
    executor(batch, batch)
    found: int = executor.cycleCount()
    return found


def test_cycles_grow_with_the_micro_batch() -> None:
    small, *larger = (cycles(samples) for samples in (4, 64, 1024))
    for more in larger:
        assert more > small
        small = more


def test_cycles_are_those_of_all_device_iterations() -> None:
    assert abs(cycles(4, iterations=6) - 6 * cycles(4)) <= 6  # each is rounded
    one, six = cycles(4, training=False), cycles(4, iterations=6, training=False)
    assert abs(six - 6 * one) <= 6


def test_training_costs_more_than_inference_and_more_with_accumulation() -> None:
    assert cycles(4, training=False) < cycles(4) < cycles(4, accumulation=2)


def test_latencies_are_simulated_and_add_up() -> None:
    options = poptorch.Options().deviceIterations(3)
    executor = poptorch.inferenceModel(Pair(), options)
    assert executor.getComputeLatency() == (0.0, 0.0, 0.0)
    executor(torch.ones(12, 64), torch.ones(12, 64))
    parts = (executor.getHostIpuLatency(), executor.getComputeLatency(),
             executor.getIpuHostLatency())  # fmt: skip
    total = executor.getLatency()
    assert all(0 < part < whole for latency in parts for part, whole in zip(latency, total))
    for summands, whole in zip(zip(*parts), total):
        assert sum(summands) == pytest.approx(whole)
    assert total[0] == pytest.approx(total[1])  # every micro-batch takes the same way


def test_latency_of_a_single_result_is_that_of_the_whole_call() -> None:
    options = poptorch.Options().deviceIterations(3).logCycleCount(True)
    executor = poptorch.trainingModel(Pair(), options)
    executor(torch.ones(12, 64), torch.ones(12, 64))
    _, _, seconds = executor.getLatency()
    assert 2 / 3 < seconds * 1.33e9 / executor.cycleCount() < 1


def test_what_cannot_be_simulated_is_named_only_when_somebody_asks() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1(x)

    executor = poptorch.inferenceModel(Unknown(), poptorch.Options().logCycleCount(True))
    executor(torch.ones(2))
    for question in (executor.cycleCount, executor.getLatency, executor.getPerfCounters):
        with pytest.raises(poptorch.Error, match=r"i1.*module <root>.*trace/kinds\.py"):
            question()


def test_compilation_time() -> None:
    executor = poptorch.inferenceModel(Pair())
    with pytest.raises(poptorch.Error, match="Model has not been compiled"):
        executor.compilationTime()
    executor(torch.ones(1), torch.ones(1))
    assert executor.compilationTime() > timedelta()


def test_hooks_run_around_every_compilation_until_removed() -> None:
    calls: List[str] = []
    before = poptorch.registerPreCompileHook(lambda: calls.append("before"))
    after = poptorch.registerPostCompileHook(lambda: calls.append("after"))
    executor = poptorch.inferenceModel(Pair())
    executor(torch.ones(1), torch.ones(1))
    executor(torch.ones(1), torch.ones(1))
    assert calls == ["before", "after"]
    before.remove()
    poptorch.inferenceModel(Pair())(torch.ones(1), torch.ones(1))
    assert calls == ["before", "after", "after"]
    after.remove()


def test_the_second_hooks_run_although_compilation_fails() -> None:
    calls: List[str] = []
    after = poptorch.registerPostCompileHook(lambda: calls.append("after"))
    with pytest.raises(AssertionError, match="Invalid batch dimension"):
        poptorch.inferenceModel(Pair(), poptorch.Options().deviceIterations(2))(
            torch.ones(1), torch.ones(1)
        )
    after.remove()
    assert calls == ["after"]


@pytest.mark.parametrize(
    ("register", "kind"),
    [(poptorch.registerPreCompileHook, "Pre"), (poptorch.registerPostCompileHook, "Post")],
)
def test_hooks_must_be_callable(register: Any, kind: str) -> None:
    with pytest.raises(RuntimeError, match=f"{kind}-compile hook must be callable"):
        register(3)


def test_synthetic_data_is_not_transferred() -> None:
    options = poptorch.Options().deviceIterations(4).enableSyntheticData(True)
    executor = poptorch.inferenceModel(Pair(), options)
    executor(torch.ones(4), torch.ones(4))
    assert executor.getPerfCounters() == {
        "input": [[], []], "input_complete": [[], []],
        "output": [[], [], []], "output_complete": [[], [], []],
    }  # fmt: skip
    assert executor.getLatency() == (0.0, 0.0, 0.0)
