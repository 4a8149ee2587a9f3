"""Programs that do not fit are refused as PopTorch refuses them, with a report."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch

WIDTH = 8192


class Wide(nn.Module):
    """Little computation on large activations: 32 KiB a sample and step."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(16):
            x = (x * self.scale).sigmoid()
        loss: Tensor = poptorch.identity_loss(x, "mean")
        return loss


def compile_for(samples: int, options: Any = None) -> Any:
    executor = poptorch.trainingModel(Wide(), options)
    executor.compile(torch.zeros(samples, WIDTH))
    return executor


TOO_MANY = 2048


def test_what_does_not_fit_is_refused_and_says_why() -> None:
    with pytest.raises(poptorch.Error) as caught:
        compile_for(TOO_MANY)
    error = caught.value
    assert error.type == "popart_exception"
    first, second, third = error.message.splitlines()[:3]
    assert first == "Out of memory: Cannot fit all variable data onto one or more tiles."
    assert second.startswith("Memory allocation error : Out of memory on tile ")
    assert "but tiles only have 638976 bytes of memory" in second
    assert third.startswith("Simulated: IPU 0, tile ")
    misfit = error.misfit
    assert misfit is not None
    assert misfit.demand_bytes == sum(term.tile_bytes for term in misfit.terms)
    assert misfit.demand_bytes > misfit.bound_bytes
    assert any("micro-batch" in lever.change for lever in misfit.levers)
    assert f"  try: {misfit.levers[0].change}" in error.message


def test_fewer_samples_fit() -> None:
    executor = compile_for(16)
    assert executor.isCompiled()


def test_a_refused_executor_is_not_compiled_and_can_compile_less() -> None:
    executor = poptorch.trainingModel(Wide())
    with pytest.raises(poptorch.Error, match="Out of memory"):
        executor(torch.zeros(TOO_MANY, WIDTH))
    assert not executor.isCompiled()
    executor(torch.zeros(4, WIDTH))
    assert executor.isCompiled()


def test_offline_compilation_is_judged_too() -> None:
    with pytest.raises(poptorch.Error, match="Out of memory"):
        compile_for(TOO_MANY, poptorch.Options().useOfflineIpuTarget())


def test_memory_is_not_checked_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IPU_MODEL_CHECK_MEMORY", "0")
    assert compile_for(TOO_MANY).isCompiled()


def test_profiling_allows_what_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    assert compile_for(TOO_MANY, poptorch.Options().enableProfiling()).isCompiled()
    assert "Out of memory" in caplog.text
    assert "debug.allowOutOfMemory" in caplog.text


def test_the_environment_wins_over_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPLAR_ENGINE_OPTIONS", '{"debug.allowOutOfMemory": "false"}')
    with pytest.raises(poptorch.Error, match="Out of memory"):
        compile_for(TOO_MANY, poptorch.Options().enableProfiling())


def test_a_program_with_an_unknown_operation_is_not_judged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1(x)

    poptorch.inferenceModel(Unknown())(torch.rand(2))
    assert "Memory was not checked" in caplog.text
    assert "i1" in caplog.text
