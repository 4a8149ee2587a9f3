"""Perf counters, latencies, cycle counts, compilation time and hooks."""

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
        assert 0 <= low <= mean <= high


def test_cycle_counts_are_hardwares() -> None:
    quiet = poptorch.inferenceModel(Pair())
    with pytest.raises(poptorch.Error, match="Cycle count logging is disabled"):
        quiet.cycleCount()
    executor = poptorch.inferenceModel(Pair(), poptorch.Options().logCycleCount(True))
    with pytest.raises(poptorch.Error, match="Please run the model at least once"):
        executor.cycleCount()
    executor(torch.ones(1), torch.ones(1))
    with pytest.raises(poptorch.Error, match="only supported on actual IPU hardware") as error:
        executor.cycleCount()
    assert error.value.type == "poptorch_py_error"


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
