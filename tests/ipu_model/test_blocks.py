"""Blocks: how modules, functions and ``with`` start them, and what an executor makes of it."""

import copy
import io
from typing import Any, List, Optional, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import (
    AutoStage,
    BeginBlock,
    Block,
    PipelinedExecution,
    ShardedExecution,
    Stage,
)
from app.ipu_model.poptorch._graph.rules import BlockEnd, BlockStart, Event
from tests.ipu_model.capturing import events_of

Placed = Tuple[Optional[str], Optional[int]]


class Chain(nn.Module):
    """Linear layers, each of which starts a block if it is given one."""

    def __init__(self, *blocks: Optional[Placed]) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.layers = nn.Sequential(*(nn.Linear(2, 2) for _ in blocks))
        for layer, block in zip(self.layers, blocks):
            if block is not None:
                BeginBlock(layer, user_id=block[0], ipu_id=block[1])

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        y = self.layers(x)
        return poptorch.identity_loss(y**2, "mean"), y


def on_ipus(*ipus: int) -> List[Placed]:
    return [(f"block{position}", ipu) for position, ipu in enumerate(ipus)]


def options_for(
    strategy: Optional[Any] = None, iterations: int = 1, accumulation: int = 1
) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(iterations).autoRoundNumIPUs(True)
    options.Training.gradientAccumulation(accumulation)
    return options if strategy is None else options.setExecutionStrategy(strategy)


def train(model: nn.Module, options: poptorch.Options) -> Tensor:
    micro_batches = options.device_iterations * options.Training.gradient_accumulation
    x = torch.linspace(-1, 1, 2 * micro_batches).reshape(micro_batches, 2)
    loss: Tensor = poptorch.trainingModel(model, options)(x)[0]
    return loss


def infer(model: nn.Module, options: poptorch.Options) -> Any:
    return poptorch.inferenceModel(model, options)(torch.ones(options.device_iterations, 2))


def recorded(run: Any) -> List[Event]:
    """Starts and ends of blocks while ``run`` is captured."""
    return [event for event in events_of(run) if isinstance(event, (BlockStart, BlockEnd))]


# ---- annotations


def test_blocks_are_no_ops_outside_an_executor() -> None:
    x = torch.ones(1, 2)
    assert torch.equal(Chain(*on_ipus(0, 1))(x)[1], Chain(None, None)(x)[1])
    Block.useAutoId()
    Block.start("a", 0)
    with Block("a") as nothing:
        pass
    assert nothing is None


def test_context_manager_ends_its_block_and_start_does_not() -> None:
    def run() -> None:
        with Block("a", ipu_id=0):
            pass
        Block.start("b", 1)

    assert recorded(run) == [BlockStart("a", 0), BlockEnd(), BlockStart("b", 1)]


def test_decorated_function_runs_in_a_block_and_keeps_its_name() -> None:
    @poptorch.BlockFunction("decoder", ipu_id=1)
    def decode(x: int, *, twice: bool) -> int:
        return 2 * x if twice else x

    assert decode.__name__ == "decode"
    assert decode(3, twice=True) == 6
    assert recorded(lambda: decode(3, twice=True)) == [BlockStart("decoder", 1), BlockEnd()]


def test_blocks_without_id_are_numbered_from_0_in_each_pass() -> None:
    def run() -> None:
        Block.start(ipu_id=0)
        Block.start("special", ipu_id=0)
        Block.start("", ipu_id=1)

    ids = ["0", "special", "1"]
    for _ in range(2):
        assert [event.block_id for event in recorded(run) if isinstance(event, BlockStart)] == ids


def test_numbering_can_start_again() -> None:
    def run() -> None:
        Block.start()
        Block.useAutoId()
        Block.start()

    assert recorded(run) == [BlockStart("0", None)] * 2


def test_module_keeps_the_automatic_id_of_its_first_call() -> None:
    first, second = BeginBlock(nn.Identity(), ipu_id=0), BeginBlock(nn.Identity(), ipu_id=1)
    x = torch.ones(1)
    assert recorded(lambda: (first(x), second(x), first(x))) == [
        BlockStart("0", 0), BlockStart("1", 1), BlockStart("0", 0)]  # fmt: skip
    assert recorded(lambda: second(x)) == [BlockStart("1", 1)]


def test_begin_block_returns_the_module_and_refuses_a_second_block() -> None:
    layer = nn.Linear(2, 2)
    assert BeginBlock(layer, ipu_id=0) is layer
    with pytest.raises(poptorch.Error, match="module has already been assigned to a block"):
        BeginBlock(layer, ipu_id=1)


def test_begin_block_wraps_functions_and_refuses_what_cannot_be_called() -> None:
    double = BeginBlock(lambda x, times=2: x * times, "a", 2)
    assert isinstance(double, poptorch.LegacyBeginBlockFn)
    assert double(4) == 8
    assert double(4, times=3) == 12
    assert recorded(lambda: double(4)) == [BlockStart("a", 2)]
    automatic = BeginBlock(abs)
    assert recorded(lambda: (automatic(-1), automatic(-1))) == [BlockStart("0", None)] * 2
    with pytest.raises(
        poptorch.Error, match=r"module is not an instance of torch.nn.Module or function."
    ):
        BeginBlock("layer")


def test_removed_blocks_constrain_nothing_and_can_be_set_again() -> None:
    model = Chain(*on_ipus(0, 1))
    poptorch.removeBlocks(model)
    train(model, options_for())
    BeginBlock(model.layers[1], ipu_id=1)
    with pytest.raises(AssertionError):
        poptorch.removeBlocks("model")  # type: ignore[arg-type]


def test_blocks_leave_other_hooks_alone() -> None:
    layer = nn.Linear(2, 2)
    calls: List[Any] = []
    layer.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    BeginBlock(layer, ipu_id=0)
    poptorch.removeBlocks(layer)
    layer(torch.ones(2))
    assert calls == [layer]


def test_blocks_are_copied_and_saved_with_their_module() -> None:
    layer = BeginBlock(nn.Linear(2, 2), "a", 1)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert poptorch.module_repr(twin).startswith("BeginBlock(user_id=a, ipu_id=1) Linear(")


# ---- in an executor


def test_training_pipeline_needs_accumulation() -> None:
    train(Chain(*on_ipus(0, 1)), options_for(accumulation=3))
    with pytest.raises(poptorch.Error, match=r"number of pipeline stages \(3\)"):
        train(Chain(*on_ipus(0, 1)), options_for(accumulation=2))


def test_inference_pipeline_needs_device_iterations() -> None:
    infer(Chain(*on_ipus(0, 1)), options_for(iterations=2))
    with pytest.raises(poptorch.Error, match=r"poptorch.Options\(\).deviceIterations must be"):
        infer(Chain(*on_ipus(0, 1)), options_for())


def test_refused_placement_leaves_the_executor_uncompiled() -> None:
    executor = poptorch.trainingModel(Chain(*on_ipus(0, 1)), options_for())
    with pytest.raises(poptorch.Error, match="gradientAccumulation"):
        executor(torch.ones(1, 2))
    assert not executor.isCompiled()


def test_module_called_twice_starts_its_block_twice() -> None:
    class Recurrent(Chain):
        def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
            return super().forward(self.layers(x))

    with pytest.raises(poptorch.Error, match="stages must ascend"):
        train(Recurrent(*on_ipus(0, 1)), options_for(accumulation=16))


def test_weight_shared_by_two_ipus_is_refused_in_a_pipeline_only() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(2))

        def forward(self, x: Tensor) -> Tensor:
            with Block("a", ipu_id=0):
                x = x @ self.weight
            with Block("b", ipu_id=1):
                return x @ self.weight

    with pytest.raises(poptorch.Error, match="Can not copy variable tensor"):
        infer(Tied(), options_for(iterations=2))
    assert torch.equal(infer(Tied(), options_for(ShardedExecution())), torch.ones(1, 2))


def test_operation_after_a_closed_block_is_refused() -> None:
    class Open(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with Block("a", ipu_id=0):
                y = x * 4
            assert y.shape == x.shape
            return y * 4

    with pytest.raises(poptorch.Error, match="No active Block"):
        infer(Open(), options_for())


@pytest.mark.parametrize(
    "strategy, blocks",
    [
        (None, on_ipus(0, 1)),
        (PipelinedExecution(AutoStage.AutoIncrement), [("a", 0), ("b", 1)]),
        (PipelinedExecution("a", "b"), [("a", None), ("b", None)]),
        (PipelinedExecution(Stage("a").ipu(0), Stage("b").ipu(1)), [("a", None), ("b", None)]),
        (ShardedExecution("a", "b"), [("a", None), ("b", None)]),
        (poptorch.ParallelPhasedExecution("a", "b"), [("a", 0), ("b", 1)]),
        (poptorch.SerialPhasedExecution(["a", "b"]), [("a", 0), ("b", 0)]),
    ],
)
def test_placement_changes_no_number(strategy: Optional[Any], blocks: List[Placed]) -> None:
    placed, plain = Chain(*blocks), Chain(None, None)
    loss = train(placed, options_for(strategy, iterations=2, accumulation=3))
    assert torch.equal(loss, train(plain, options_for(iterations=2, accumulation=3)))
    for w, expected in zip(placed.parameters(), plain.parameters()):
        assert torch.equal(w, expected)
