"""What runs before `training.trained_from` stays as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional, Set, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.config.schema import Model, Run
from app.errors import CheckpointError, ConfigError
from app.ipu_model.simulation import Simulation
from app.nets import build_net
from app.simulate import simulate_run
from app.training.device_models import training_model
from app.training.freezing import HEADS, freeze_before, head_of
from app.training.optimizers import parameter_groups
from app.training.trainer import Trainer
from tests.training.tiny_run import final_checkpoint, tiny_run, train

BATCH = "model.norm={kind: batch}"


def frozen_run(trained_from: Optional[str], *overrides: str) -> Run:
    run = tiny_run(*overrides)
    return replace(run, training=replace(run.training, trained_from=trained_from))


def tiny_net(run: Run) -> nn.Module:
    return build_net(run.model, num_classes=5, in_channels=3)


@pytest.mark.parametrize("model", [Model("efficientnet_b0"), Model("resnet18")])
def test_the_head_follows_the_last_block(model: Model) -> None:
    with torch.device("meta"):
        net = build_net(model, 10)
    assert head_of(model) == HEADS[model.family]
    freeze_before(net, model, head_of(model))
    last_block = {"efficientnet": "blocks.6", "resnet": "layer4"}[model.family]
    assert not any(p.requires_grad for p in net.get_submodule(last_block).parameters())
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    expected = {"efficientnet": {"conv_head", "bn2", "classifier"}, "resnet": {"fc"}}
    assert trained == expected[model.family]


@pytest.mark.parametrize(
    ("trained_from", "frozen"),
    [
        (None, ()),
        ("blocks.2", ("conv_stem", "bn1", "blocks.0", "blocks.1")),
        (
            "blocks.1.0.conv_dw",
            ("conv_stem", "bn1", "blocks.0", "blocks.1.0.conv_pw", "blocks.1.0.bn1"),
        ),
        ("conv_head", ("conv_stem", "bn1", "blocks")),
    ],
)
def test_what_has_run_when_the_module_starts_is_frozen(
    trained_from: Optional[str], frozen: Tuple[str, ...]
) -> None:
    run = frozen_run(trained_from)
    net = tiny_net(run)
    model = training_model(run, net, channels=3)
    assert model.frozen == frozen
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != any(name.startswith(f"{each}.") for each in frozen), name
    held = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert held == {id(p) for p in net.parameters() if p.requires_grad}


def test_execution_decides_and_not_the_order_of_definition() -> None:
    model = Model("resnet18")
    with torch.device("meta"):
        net = build_net(model, 10)
    assert freeze_before(net, model, "layer4.0.conv1")[-1] == "layer4.0.downsample"


def test_frozen_modules_stay_in_evaluation_mode_when_the_model_is_set_to_train() -> None:
    run = frozen_run("blocks.3")
    model = training_model(run, tiny_net(run), channels=3)
    for _ in range(2):
        modes = {name: module.training for name, module in model.net.named_modules()}
        assert not modes["blocks.2"] and not modes["blocks.2.0.drop_path"]
        assert modes["blocks.3"] and modes["blocks.3.0.drop_path"] and modes["dropout"]
        model.train()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "blocks.33",
            "training.trained_from: 'blocks.33' is not a module of efficientnet_b0; did you mean "
            "'blocks.3'?",
        ),
        (
            "conv_stem",
            "training.trained_from: nothing runs before 'conv_stem' in efficientnet_b0; leave it "
            "out to train the whole network",
        ),
        (
            "blocks.2.0.drop_path",
            "training.trained_from: 'blocks.2.0.drop_path' never runs in efficientnet_b0; begin "
            "training at another module",
        ),
    ],
)
def test_a_name_that_begins_nothing_is_one_sentence(name: str, message: str) -> None:
    run = frozen_run(name)
    with pytest.raises(ConfigError) as refused:
        training_model(run, tiny_net(run), channels=3)
    assert str(refused.value) == message


def test_a_module_after_which_nothing_is_trained_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ConfigError, match="'1' begins nothing that can be trained in resnet18"):
        freeze_before(net, Model("resnet18"), "1")


# ---- training


def changed(before: Dict[str, Tensor], after: Dict[str, Tensor]) -> Dict[str, bool]:
    return {name: not torch.equal(before[name], after[name]) for name in before}


@pytest.mark.parametrize("norm", ["model.dropout=0.2", BATCH])
def test_frozen_weights_and_statistics_keep_every_bit_and_others_change(
    tmp_path: Path, norm: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, norm, "training.epochs=1")
    flags = [norm, f"training.initial_checkpoint={first}", "training.trained_from=blocks.5"]
    trainer = Trainer(tiny_run(*flags), second)
    trainer.directory.close()
    average = final_checkpoint(first).average
    assert average is not None
    for name, tensor in trainer.net.state_dict().items():
        assert torch.equal(tensor, average[name].to(tensor.dtype)), name
    train(second, *flags)
    after = final_checkpoint(second).model
    start = {name: average[name].to(tensor.dtype) for name, tensor in after.items()}
    frozen = ("conv_stem", "bn1", *(f"blocks.{stage}" for stage in range(5)))
    moved = changed(start, after)
    assert any("running_mean" in name for name in moved) == (norm == BATCH)
    for name, has_changed in moved.items():
        is_frozen = name.startswith(tuple(f"{each}." for each in frozen))
        if not name.endswith("num_batches_tracked"):
            assert has_changed != is_frozen, name


def test_a_run_starts_from_its_initial_checkpoint_once_only(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, "training.epochs=1")
    flag = f"training.initial_checkpoint={first}"
    train(second, flag, "training.epochs=1", "optimizer.learning_rate=1e-30")
    before = final_checkpoint(second).model
    (first / "checkpoint-000000003.pt").unlink()
    resumed = Trainer(tiny_run(flag, "training.epochs=1", "optimizer.learning_rate=1e-30"), second)
    resumed.directory.close()
    assert not any(changed(before, resumed.net.state_dict()).values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.expand_ratio=4", "does not fit efficientnet_b0 as configured (size mismatch for "),
        ("training.initial_checkpoint=nowhere.pt", "nowhere.pt: cannot be read (No such file "),
    ],
)
def test_an_initial_checkpoint_that_cannot_serve_is_refused_before_the_run_starts(
    tmp_path: Path, override: str, message: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, "training.epochs=1")
    with pytest.raises(CheckpointError) as refused:
        train(second, f"training.initial_checkpoint={first}", override)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not second.exists()


# ---- on the simulated device


def simulated(trained_from: Optional[str], splits: str) -> Tuple[Simulation, Set[int], Set[int]]:
    overrides = [f"pipeline.splits={splits}", "batching.gradient_accumulation=8"]
    simulation = simulate_run(frozen_run(trained_from, *overrides))
    stages = {op.stage for op in simulation.ops if op.phase == "backward"}
    stashing = {op.stage for op in simulation.ops if op.kind == "stash"}
    return simulation, stages, stashing


def test_the_backward_pass_ends_where_training_begins() -> None:
    splits = "[blocks.2.0, blocks.5.0]"
    whole, whole_stages, whole_stashing = simulated(None, splits)
    part, part_stages, part_stashing = simulated("blocks.3", splits)
    head, head_stages, head_stashing = simulated("conv_head", splits)
    assert (whole_stages, whole_stashing) == ({0, 1, 2}, {0, 1})
    assert (part_stages, part_stashing) == ({1, 2}, {1})
    assert (head_stages, head_stashing) == ({2}, set())
    for cheaper, dearer in ((part, whole), (head, part)):
        assert cheaper.throughput_samples_per_s > dearer.throughput_samples_per_s
        assert cheaper.per_ipu[0].memory.peak_tile_bytes <= dearer.per_ipu[0].memory.peak_tile_bytes
    assert {op.scope.split(".")[1] for op in head.ops if op.phase == "update"} == {
        "conv_head",
        "bn2",
        "classifier",
    }
