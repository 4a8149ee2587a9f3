"""Blocks, stages and IPUs: what a placement asks of the batching, and what it refuses."""

from typing import Any, List, Optional, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import (
    AutoStage,
    BeginBlock,
    PipelinedExecution,
    ShardedExecution,
    Stage,
)

Block = Tuple[Optional[str], Optional[int]]


class Chain(nn.Module):
    """Linear layers, each of which starts a block if it is given one."""

    def __init__(self, *blocks: Optional[Block]) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.layers = nn.Sequential(*(nn.Linear(2, 2) for _ in blocks))
        for layer, block in zip(self.layers, blocks):
            if block is not None:
                BeginBlock(layer, user_id=block[0], ipu_id=block[1])

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        y = self.layers(x)
        return poptorch.identity_loss(y**2, "mean"), y


def on_ipus(*ipus: int) -> List[Block]:
    return [(f"block{position}", ipu) for position, ipu in enumerate(ipus)]


def options_for(
    strategy: Optional[PipelinedExecution] = None,
    iterations: int = 1,
    accumulation: int = 1,
    replicas: int = 1,
    rounding: bool = True,
) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)
    if strategy is not None:
        options.setExecutionStrategy(strategy)
    return options.autoRoundNumIPUs(rounding)


def train(model: nn.Module, options: poptorch.Options) -> Tensor:
    micro_batches = (
        options.device_iterations
        * options.Training.gradient_accumulation
        * options.replication_factor
    )
    x = torch.linspace(-1, 1, 2 * micro_batches).reshape(micro_batches, 2)
    loss: Tensor = poptorch.trainingModel(model, options)(x)[0]
    return loss


def infer(model: nn.Module, options: poptorch.Options) -> Any:
    x = torch.ones(options.device_iterations * options.replication_factor, 2)
    return poptorch.inferenceModel(model, options)(x)


# ---- annotations


def test_blocks_are_no_ops_outside_an_executor() -> None:
    x = torch.ones(1, 2)
    assert torch.equal(Chain(*on_ipus(0, 1))(x)[1], Chain(None, None)(x)[1])


def test_begin_block_returns_the_module_and_refuses_a_second_block() -> None:
    layer = nn.Linear(2, 2)
    assert BeginBlock(layer, ipu_id=0) is layer
    with pytest.raises(poptorch.Error, match="module has already been assigned to a block"):
        BeginBlock(layer, ipu_id=1)


def test_removed_blocks_constrain_nothing_and_can_be_set_again() -> None:
    model = Chain(*on_ipus(0, 1))
    poptorch.removeBlocks(model)
    train(model, options_for())
    BeginBlock(model.layers[1], ipu_id=1)


def test_module_called_twice_starts_its_block_twice() -> None:
    class Recurrent(Chain):
        def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
            return super().forward(self.layers(x))

    with pytest.raises(poptorch.Error, match="stages must ascend"):
        train(Recurrent(*on_ipus(0, 1)), options_for(accumulation=16))


def test_stage_ids_must_be_strings() -> None:
    with pytest.raises(AssertionError, match="strings"):
        Stage("a", 1)  # type: ignore[arg-type]


# ---- batching


@pytest.mark.parametrize(
    "ipus, stages",
    [((0,), 1), ((0, 1), 2), ((0, 0, 1, 1), 2), ((1, 2), 3), ((0, 1, 2, 3), 4)],
)
def test_training_pipeline_needs_2f_minus_1_accumulation_steps(
    ipus: Tuple[int, ...], stages: int
) -> None:
    needed = 2 * stages - 1
    train(Chain(*on_ipus(*ipus)), options_for(accumulation=needed))
    if stages > 1:
        with pytest.raises(
            poptorch.Error, match=r"gradientAccumulation must be greater than or equal to the"
        ) as caught:
            train(Chain(*on_ipus(*ipus)), options_for(accumulation=needed - 1))
        assert f"the number of pipeline stages ({needed})" in caught.value.message


@pytest.mark.parametrize("ipus, stages", [((0,), 1), ((0, 1), 2), ((1, 2), 3), ((0, 1, 2, 3), 4)])
def test_inference_pipeline_needs_f_device_iterations(ipus: Tuple[int, ...], stages: int) -> None:
    infer(Chain(*on_ipus(*ipus)), options_for(iterations=stages))
    if stages > 1:
        with pytest.raises(poptorch.Error, match=r"poptorch.Options\(\).deviceIterations must be"):
            infer(Chain(*on_ipus(*ipus)), options_for(iterations=stages - 1))


def test_refused_placement_leaves_the_executor_uncompiled() -> None:
    executor = poptorch.trainingModel(Chain(*on_ipus(0, 1)), options_for())
    with pytest.raises(poptorch.Error, match="gradientAccumulation"):
        executor(torch.ones(1, 2))
    assert not executor.isCompiled()


def test_sharded_execution_needs_no_accumulation() -> None:
    strategy = ShardedExecution(AutoStage.SameAsIpu)
    train(Chain(*on_ipus(0, 1, 2, 3)), options_for(strategy))
    infer(Chain(*on_ipus(0, 1, 2, 3)), options_for(strategy))


@pytest.mark.parametrize(
    "strategy, blocks",
    [
        (None, on_ipus(0, 1)),
        (PipelinedExecution(AutoStage.AutoIncrement), [("a", 0), ("b", 1)]),
        (PipelinedExecution("a", "b"), [("a", None), ("b", None)]),
        (PipelinedExecution(Stage("a").ipu(0), Stage("b").ipu(1)), [("a", None), ("b", None)]),
        (ShardedExecution("a", "b"), [("a", None), ("b", None)]),
    ],
)
def test_placement_changes_no_number(
    strategy: Optional[PipelinedExecution], blocks: List[Block]
) -> None:
    placed, plain = Chain(*blocks), Chain(None, None)
    loss = train(placed, options_for(strategy, iterations=2, accumulation=3))
    assert torch.equal(loss, train(plain, options_for(iterations=2, accumulation=3)))
    for w, expected in zip(placed.parameters(), plain.parameters()):
        assert torch.equal(w, expected)


# ---- strategies


def test_default_strategy_takes_the_stage_from_the_ipu_and_needs_one() -> None:
    with pytest.raises(AssertionError, match="ipu_id needs to be set in block a"):
        train(Chain(("a", 0), ("a", None)), options_for(accumulation=3))


def test_automatic_increment_numbers_new_blocks_from_1() -> None:
    strategy = PipelinedExecution(AutoStage.AutoIncrement)
    started: List[Tuple[str, Optional[int]]] = [("a", None), ("b", 0), ("b", None)]
    assert strategy.place(started) == [(1, 1), (2, 0), (2, 2)]


def test_explicit_stages_hold_several_blocks_and_place_them() -> None:
    strategy = PipelinedExecution("a", Stage("b", "c").ipu(3))
    assert strategy.place([("a", None), ("b", None), ("c", None)]) == [(0, 0), (1, 3), (1, 3)]


def test_block_missing_from_explicit_stages_is_named() -> None:
    with pytest.raises(AssertionError, match="Unknown block c list of expected blocks"):
        train(Chain(("a", None), ("c", None)), options_for(PipelinedExecution("a", "b")))


def test_stages_must_ascend_along_the_graph() -> None:
    with pytest.raises(poptorch.Error, match="stages must ascend"):
        train(Chain(*on_ipus(1, 0)), options_for(accumulation=16))


def test_block_without_id_gets_an_automatic_one() -> None:
    strategy = PipelinedExecution(AutoStage.AutoIncrement)
    train(Chain((None, None), ("", None)), options_for(strategy, accumulation=5))
    with pytest.raises(poptorch.Error, match=r"pipeline stages \(5\)"):
        train(Chain((None, None), ("", None)), options_for(strategy, accumulation=4))


# ---- number of IPUs


@pytest.mark.parametrize(
    "ipus, replicas, allowed", [((0, 1), 1, True), ((0, 1), 2, True), ((0, 1, 2), 1, False),
                                ((0,), 3, False), ((0, 1, 2), 4, False), ((0, 3), 1, True)]
)  # fmt: skip
def test_number_of_ipus_must_be_a_power_of_two_unless_rounded(
    ipus: Tuple[int, ...], replicas: int, allowed: bool
) -> None:
    def compile(rounding: bool) -> None:
        options = options_for(None, 4, 1, replicas, rounding)
        infer(Chain(*on_ipus(*ipus)), options)

    compile(rounding=True)
    if allowed:
        compile(rounding=False)
    else:
        with pytest.raises(poptorch.Error, match="power of two"):
            compile(rounding=False)


def test_process_has_64_ipus_at_most() -> None:
    infer(Chain(*on_ipus(0, 1)), options_for(iterations=2, replicas=32))
    for replicas in (33, 64):
        with pytest.raises(poptorch.Error, match=r"Too many IPUs requested \(128\)"):
            infer(Chain(*on_ipus(0, 1)), options_for(iterations=2, replicas=replicas))
