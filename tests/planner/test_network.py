"""Where a stage can begin, and which results can be stored."""

from typing import Any, List

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model.graph import Graph
from app.ipu_model.trace import trace
from app.planner.network import Network, Traced
from tests.planner.small import CHANNELS, SIZE, Net, Residual, Trained, Unit, traced


def traced_net(*blocks: nn.Module) -> Traced:
    with torch.device("meta"):
        model = Trained(Net(*blocks)).train()
    images = torch.empty(2, 3, SIZE, SIZE, device="meta")
    labels = torch.empty(2, dtype=torch.int64, device="meta")
    return Traced(trace(model, (images, labels), stages={}), "net.")


def cuts(network: Traced) -> List[str]:
    return [cut.module for cut in network.cuts]


def checkpoints(network: Traced, joint: bool) -> List[str]:
    return [each.module for each in network.checkpoints if each.joint is joint]


class Twice(nn.Module):
    """One unit, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.again = Unit()
        self.other = Unit(1)

    def forward(self, x: Tensor) -> Any:
        return self.again(self.other(self.again(x)))


def test_stages_begin_where_modules_do_even_inside_blocks() -> None:
    assert cuts(traced_net(Residual(), Unit())) == [
        "",
        "blocks",
        "blocks.0.first.1",
        "blocks.0.first.2",
        "blocks.0.second",
        "blocks.0.second.1",
        "blocks.1",
        "blocks.1.1",
        "blocks.1.2",
        "head",
    ]


@pytest.mark.parametrize("name", ["plain", "residual", "squeeze-excite", "early labels"])
def test_a_cut_stands_where_its_module_is_called(name: str) -> None:
    network = traced(name)
    for cut in network.cuts[1:]:
        scope = network.graph.ops[cut.position].scope
        assert f"{scope}.".startswith(f"net.{cut.module}.")
        before = {op.scope for op in network.graph.ops[: cut.position]}
        assert not any(f"{scope}.".startswith(f"net.{cut.module}.") for scope in before)
    positions = [cut.position for cut in network.cuts]
    assert positions == sorted(set(positions))


def test_of_modules_that_begin_together_the_outermost_lends_its_name() -> None:
    network = traced_net(Residual(), Unit())
    inner = ("blocks", "blocks.0", "blocks.0.first", "blocks.0.first.0")
    assert len({network.starts[name] for name in inner}) == 1
    assert set(cuts(network)).isdisjoint(inner[1:])


def test_a_module_that_is_called_twice_begins_no_stage_and_stores_nothing() -> None:
    network = traced_net(Twice(), Unit())
    twice = {"blocks.0.again", "blocks.0.again.0", "blocks.0.again.1", "blocks.0.again.2"}
    assert "blocks.0.other" in cuts(network)
    assert twice.isdisjoint(cuts(network))
    assert twice.isdisjoint(network.starts)
    assert twice.isdisjoint(each.module for each in network.checkpoints)


def test_what_crosses_a_cut_is_what_is_read_behind_it() -> None:
    network = traced("residual")
    ops, starts = network.graph.ops, network.starts
    stem = ops[0].outputs[0]
    assert network.carried(0) == ()
    assert network.carried(starts["blocks"]) == (stem,)
    inside = network.carried(starts["blocks.0.second"])
    assert len(inside) == 2  # the skip, and what the branch has come to
    assert inside[0] == stem
    assert len(network.carried(starts["blocks.1"])) == 1
    shape = (2, CHANNELS, SIZE, SIZE)
    assert {network.graph.tensors[id].shape for id in inside} == {shape}


@pytest.mark.parametrize("name", ["plain", "residual", "squeeze-excite", "tied"])
def test_what_crosses_was_made_before_and_is_read_from_there_on(name: str) -> None:
    network = traced(name)
    for cut in network.cuts:
        made = {id for op in network.graph.ops[: cut.position] for id in op.outputs}
        read = {id for op in network.graph.ops[cut.position :] for id in op.inputs}
        assert set(network.carried(cut.position)) == made & read


def test_results_of_residual_blocks_are_joints_and_those_inside_are_not() -> None:
    network = traced_net(Residual(), Residual(), Unit(1))
    inside = [name for name in checkpoints(network, False) if "." in name]
    assert {name.split(".")[1] for name in inside} == {"0", "1"}
    assert all(name.count(".") > 1 for name in inside)
    assert {"blocks.0", "blocks.1"} <= set(checkpoints(network, True))


def test_a_chain_has_joints_alone() -> None:
    network = traced_net(Unit(), Unit(1))
    assert checkpoints(network, False) == []
    assert checkpoints(network, True)[:4] == ["stem", "blocks.0.0", "blocks.0.1", "blocks.0"]


@pytest.mark.parametrize("name", ["plain", "residual", "squeeze-excite"])
def test_a_checkpoint_is_what_its_module_returns(name: str) -> None:
    network = traced(name)
    tensors = [each.tensor for each in network.checkpoints]
    assert len(tensors) == len(set(tensors))
    for each in network.checkpoints:
        op = network.graph.ops[each.position]
        assert op.outputs[0] == each.tensor
        assert f"{op.scope}.".startswith(f"net.{each.module}.")
        later = [op.scope for op in network.graph.ops[each.position + 1 :]]
        assert not any(f"{scope}.".startswith(f"net.{each.module}.") for scope in later)
        assert any(each.tensor in op.inputs for op in network.graph.ops[each.position + 1 :])


def test_layers_are_convolutions_and_linear_layers() -> None:
    network = traced_net(Unit(), Residual())
    assert network.layers[0] == 0
    assert network.layers[network.starts["blocks"]] == 1
    assert network.layers[network.starts["head"]] == 4
    assert network.layers[-1] == 5
    assert len(network.layers) == len(network) + 1


def test_a_micro_batch_is_traced_once() -> None:
    asked: List[int] = []
    graph = traced("plain").graph

    def trace_again(micro_batch: int) -> Graph:
        asked.append(micro_batch)
        return graph

    network = Network(trace_again)
    assert network.at(2) is network.at(2)
    assert network.at(4) is not network.at(2)
    assert asked == [2, 4]
