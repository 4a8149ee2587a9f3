from typing import List, Tuple

import pytest
from torch import nn

from app.config.schema import Run
from app.errors import ConfigError
from app.nets import build_net
from app.sdk import poptorch
from app.training.placement import (
    evaluation_iterations,
    evaluation_options,
    place,
    training_options,
)
from tests.training.tiny_run import tiny_run


def net_of(run: Run) -> nn.Module:
    return build_net(run.model, num_classes=5)


def run_with_splits(*splits: str) -> Run:
    stages = len(splits) + 1
    return tiny_run(
        f"pipeline.splits=[{', '.join(splits)}]",
        f"batching.gradient_accumulation={2 * stages - 1}",
    )


def refusal(*splits: str) -> str:
    run = run_with_splits(*splits)
    with pytest.raises(ConfigError) as refused:
        place(net_of(run), run)
    return str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("block.3.0", "blocks.3.0"),
        ("blocks.3.0.conv_pwll", "blocks.3.0.conv_pwl"),
        ("clasifier", "classifier"),
        ("conv_heads", "conv_head"),
    ],
)
def test_an_unknown_module_is_refused_with_the_nearest_name(wrong: str, near: str) -> None:
    assert refusal("blocks.1", wrong) == (
        f"pipeline.splits: '{wrong}' is not a module of efficientnet_b0; did you mean '{near}'?"
    )


def test_an_unknown_module_without_a_near_name_is_refused_with_the_first_ones() -> None:
    assert refusal("xyz") == (
        "pipeline.splits: 'xyz' is not a module of efficientnet_b0; its modules are "
        "['conv_stem', 'bn1', 'blocks', 'blocks.0', 'blocks.0.0', 'blocks.0.0.drop_path', "
        "'blocks.0.0.conv_dw', 'blocks.0.0.bn1'], ..."
    )


@pytest.mark.parametrize(
    "splits",
    [["blocks.3.0", "blocks.1.0"], ["classifier", "blocks.1"], ["bn2", "conv_head", "classifier"]],
)
def test_modules_in_another_order_than_the_networks_are_refused(splits: List[str]) -> None:
    assert refusal(*splits) == (
        f"pipeline.splits: {', '.join(splits)} is not the order in which efficientnet_b0 runs; "
        "list the modules in its order"
    )


@pytest.mark.parametrize(
    "splits",
    [
        [],
        ["blocks.3.0"],
        ["blocks.1", "blocks.3.0.conv_dw", "classifier"],
        ["blocks.2", "blocks.4", "conv_head"],
    ],
)
def test_every_split_begins_the_next_stage(splits: List[str]) -> None:
    run = run_with_splits(*splits)
    net = net_of(run)
    place(net, run)
    for name, module in net.named_modules():
        if name in splits:
            with pytest.raises(poptorch.Error, match="already been assigned to a block"):
                poptorch.BeginBlock(module)
        else:
            poptorch.BeginBlock(module)


def test_options_carry_the_batching() -> None:
    run = tiny_run(
        "batching.gradient_accumulation=5",
        "batching.replicas=2",
        "batching.device_iterations=7",
        "seed=11",
    )
    training, evaluation = training_options(run), evaluation_options(run)
    assert training.device_iterations == 7
    assert training.Training.gradient_accumulation == 5
    assert evaluation.device_iterations == 5  # micro-batches per call and replica, as in training
    assert evaluation.Training.gradient_accumulation == 1
    assert training.output_mode == poptorch.OutputMode.Sum
    assert evaluation.output_mode == poptorch.OutputMode.All  # the host adds up, exactly
    for options in (training, evaluation):
        assert options.replication_factor == 2
        assert options.random_seed == 11
    assert (training.model_name, evaluation.model_name) == ("tiny-training", "tiny-evaluation")


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_an_evaluation_fills_its_pipeline(stages: int) -> None:
    run = run_with_splits(*["blocks.1", "blocks.3", "blocks.5"][: stages - 1])
    assert evaluation_iterations(run) >= stages
    assert evaluation_iterations(run) == run.batching.gradient_accumulation


@pytest.mark.parametrize(("dataset", "stays"), [("synthetic", True), ("generated", False)])
def test_synthetic_data_alone_stay_off_the_device(dataset: str, stays: bool) -> None:
    run = tiny_run(f"data.name={dataset}")
    for options in (training_options(run), evaluation_options(run)):
        assert bool(options._Popart.value("syntheticDataMode")) is stays


def test_a_module_that_never_runs_is_refused() -> None:
    # the first unit of a stage has no skip, so its stochastic depth has nothing to drop
    assert refusal("blocks.2.0.drop_path") == (
        "pipeline.splits: 'blocks.2.0.drop_path' never runs in efficientnet_b0; begin the stage at "
        "another module"
    )


@pytest.mark.parametrize("splits", [("blocks.3", "blocks.3.0"), ("conv_stem",)])
def test_a_stage_without_a_layer_is_refused(splits: Tuple[str, ...]) -> None:
    assert refusal(*splits) == (
        f"pipeline.splits: no layer runs in the stage before '{splits[-1]}'; leave it out, or "
        "begin the stage at another module"
    )
