"""`simulate`: a run's program, what it costs, and how the command line says it."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type

import pytest
import torch

from app.cli import main
from app.config.loader import load_run
from app.errors import ConfigError
from app.ipu_model.graph import Element, Graph, Role
from app.ipu_model.program import Execution, OptimizerState
from app.nets import build_net
from app.simulate import execution_of, simulate_run, trace_run
from datasets import image_shape
from tests.training.tiny_run import set_flags, tiny_run

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "ipu_configs"

SMALL = """
name: small
system: ipu-m2000
model:
  name: efficientnet_b0
  group_size: 16
  expand_ratio: 1
  norm: {kind: layer}
  width_factor: 0.1
  depth_factor: 0.1
data:
  name: digits
  image_size: 8
batching:
  micro_batch: 1
  gradient_accumulation: 3
pipeline:
  splits: [blocks.3.0]
training:
  epochs: 1
"""
SHELF = """system:
  name: Shelf
  ipus: 4
  chip:
    name: mk2
    tiles: 1472
    tile_memory_bytes: {bytes}
    clock_hz: 1.325e9
    source: a test
    memory: {{region0_bytes: 50000, element_bytes: 16384, source: a test}}
"""

Json = Dict[str, Any]
NUMBER: Tuple[Type[Any], ...] = (int, float)
KEYS = {
    "config": (str,),
    "system": (str,),
    "mode": (str,),
    "fits": (bool,),
    "throughput_samples_per_s": NUMBER,
    "step_time_s": NUMBER,
    "global_batch_size": (int,),
    "ipus": (int,),
    "replicas": (int,),
    "stages": (int,),
    "tile_memory_bytes": (int,),
    "peak_tile_bytes": (int,),
    "per_ipu": (list,),
    "model": (dict,),
    "misfit": (dict, type(None)),
    "calibration": (dict,),
}
IPU_KEYS = (
    "ipu", "stage", "cycles_per_micro_batch", "compute_cycles", "exchange_cycles", "sync_cycles",
    "peak_tile_bytes", "always_live_tile_bytes", "not_always_live_tile_bytes", "code_tile_bytes",
    "weights_bytes", "stash_bytes",
)  # fmt: skip


@pytest.fixture(autouse=True)
def backend_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb chooses the IPU Model in the environment: put back what stood there."""
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def small_peak_tile_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    path = tmp_path_factory.mktemp("peak") / "small.yml"
    path.write_text(SMALL)
    return simulate_run(load_run(path, [])).peak_tile_bytes


@pytest.fixture
def too_large(tmp_path: Path, small_peak_tile_bytes: int) -> Path:
    """The same run on tiles of one byte less than it takes."""
    path = tmp_path / "large.yml"
    shelf = SHELF.format(bytes=small_peak_tile_bytes - 1)
    path.write_text(SMALL.replace("system: ipu-m2000\n", shelf))
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["simulate", *arguments]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def assert_finite(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            assert_finite(part)
    if isinstance(value, float):
        assert math.isfinite(value)


# ---- what the verb says


def test_the_text_names_the_run_its_system_and_that_it_is_simulated(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "--config", str(small))
    assert said.startswith("small: training on IPU-M2000 – simulated\n")
    assert "  memory       fits: the fullest tile (IPU " in said
    assert "2 IPUs: 1 replica, 2 pipeline stages" in said
    assert "page " not in said


def test_the_json_has_every_key_with_its_type(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content: Json = json.loads(printed(capsys, "--config", str(small), "--json"))
    for key, types in KEYS.items():
        assert isinstance(content[key], types), key
    assert content["config"] == str(small)
    assert (content["system"], content["mode"], content["fits"]) == ("IPU-M2000", "training", True)
    assert content["misfit"] is None
    assert (content["ipus"], content["replicas"], content["stages"]) == (2, 1, 2)
    assert content["global_batch_size"] == 3
    assert content["tile_memory_bytes"] == 638976
    assert content["throughput_samples_per_s"] * content["step_time_s"] == pytest.approx(3)
    assert_finite(content)
    assert [set(IPU_KEYS) <= set(ipu) for ipu in content["per_ipu"]] == [True, True]
    for ipu in content["per_ipu"]:
        assert all(type(ipu[key]) is int and ipu[key] >= 0 for key in IPU_KEYS)
        live = ipu["always_live_tile_bytes"] + ipu["not_always_live_tile_bytes"]
        assert live == ipu["peak_tile_bytes"] <= content["peak_tile_bytes"]
    assert set(content["model"]) >= {"parameters", "macs_per_sample"}
    assert content["calibration"] == {"name": "mk2", "sdk": "3.3.0"}


def test_overrides_change_what_is_simulated(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = set_flags("batching.replicas=2", "system=bow-2000")
    content: Json = json.loads(printed(capsys, "--config", str(small), "--json", *flags))
    assert (content["system"], content["ipus"], content["replicas"]) == ("Bow-2000", 4, 2)
    assert content["global_batch_size"] == 6


def test_a_report_is_a_page_and_a_trace(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "report"
    said = printed(capsys, "--config", str(small), "--report", str(out))
    assert said.splitlines()[-1] == f"page {out / 'index.html'}, trace {out / 'trace.json'}"
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "trace.json"]
    assert "<html" in (out / "index.html").read_text(encoding="utf-8")
    assert json.loads((out / "trace.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_report_beside_json_leaves_one_object_on_standard_output(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    said = printed(capsys, "--config", str(small), "--json", "--report", str(out))
    assert json.loads(said)["config"] == str(small)
    assert (out / "index.html").is_file()


@pytest.mark.long
def test_the_command_prints_the_same_as_the_function(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate", "--config", str(small), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == printed(capsys, *arguments[1:])


# ---- what does not fit


def test_a_run_that_does_not_fit_leaves_with_3_and_says_what_would_help(
    too_large: Path, small_peak_tile_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "--config", str(too_large), "--json", code=3)
    content: Json = json.loads(said)
    misfit = content["misfit"]
    assert content["fits"] is False
    assert misfit["demand_bytes"] == content["peak_tile_bytes"] == small_peak_tile_bytes
    assert misfit["bound_bytes"] == content["tile_memory_bytes"] == small_peak_tile_bytes - 1
    assert sum(term["tile_bytes"] for term in misfit["terms"]) == misfit["demand_bytes"]
    assert misfit["ipu"] in (0, 1)
    (off_chip,) = (lever for lever in misfit["levers"] if lever["change"].endswith("off chip"))
    assert off_chip["fits"] is True
    assert off_chip["saved_tile_bytes"] > 0


def test_the_advice_is_good(too_large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = set_flags("memory.optimizer_state_off_chip=true")
    assert json.loads(printed(capsys, "--config", str(too_large), "--json", *flags))["fits"]


def test_the_text_of_a_misfit_leaves_with_3_too(
    too_large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, "--config", str(too_large), code=3)
    assert "does not fit: IPU " in said
    assert "optimiser state off chip" in said


def test_advice_leaves_out_micro_batches_that_do_not_run(
    too_large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch norm refuses a single value, so 2 cannot become 1."""
    text = too_large.read_text()
    too_large.write_text(re.sub(r"tile_memory_bytes: \d+", "tile_memory_bytes: 50000", text))
    flags = set_flags("model.norm.kind=batch", "batching.micro_batch=2")
    content: Json = json.loads(
        printed(capsys, "--config", str(too_large), "--json", *flags, code=3)
    )
    changes = [lever["change"] for lever in content["misfit"]["levers"]]
    assert changes
    assert not [change for change in changes if change.startswith("micro-batch")]


# ---- what is refused

REFUSALS = {
    "a typo": (["batching.micro_bach=2"], "unknown key 'batching.micro_bach'; did you mean"),
    "an unknown module": (["pipeline.splits=[block.3.0]"], "pipeline.splits: 'block.3.0' is not"),
    "an unknown checkpoint": (["memory.checkpoints=[blocks.99]"], "memory.checkpoints: 'blocks"),
    "too many IPUs": (["batching.replicas=4"], "2 x 4 = 8 IPUs, IPU-M2000 has 4"),
    "a pipeline that is not filled": (["batching.gradient_accumulation=2"], "must be at least 3"),
    "a batch norm of single values": (
        ["model.norm.kind=batch"],
        "batching.micro_batch: efficientnet_b0 does not run on 1 images of 8 x 8 pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_run_that_cannot_be_simulated_is_one_sentence(
    small: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    overrides, message = REFUSALS[fault]
    assert main(["simulate", "--config", str(small), *set_flags(*overrides)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_a_missing_configuration_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing.yml"
    assert main(["simulate", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{path}: ")


# ---- how the run's settings become the program's


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace_run(tiny_run(), 4)


def executed(graph: Graph, *overrides: str) -> Execution:
    return execution_of(tiny_run(*overrides), graph)


def test_a_plain_run_is_this_execution(graph: Graph) -> None:
    assert executed(graph) == Execution(
        micro_batch=4,
        gradient_accumulation=3,
        recomputation="pipeline",
        optimizer=OptimizerState("rmsprop", 2),
    )


SETTINGS: List[Tuple[List[str], Json]] = [
    (
        ["precision.types='16.16'"],
        {"accumulator_element": Element.HALF, "float_variables": False},
    ),
    (
        ["precision.types='16.32'"],
        {"accumulator_element": Element.FLOAT, "float_variables": True},
    ),
    (["precision.partials=half"], {"half_partials": True}),
    (["precision.partials=float"], {"half_partials": False}),
    (["memory.recomputation=none"], {"recomputation": "none"}),
    (["memory.recomputation=standard"], {"recomputation": "standard"}),
    (["memory.recomputation=all"], {"recomputation": "all"}),
    (["pipeline.splits=[]"], {"recomputation": "none"}),
    (
        ["memory.available_memory_proportion=[0.2]"],
        {"available_memory_proportion": (0.2,)},
    ),
    (
        ["memory.available_memory_proportion=[0.2, 0.4]"],
        {"available_memory_proportion": (0.2, 0.4)},
    ),
    (["memory.io_tiles=64"], {"io_tiles": 64}),
    (["memory.optimizer_state_off_chip=true"], {"state_off_chip": True}),
    (["memory.replicated_tensor_sharding=true"], {"replicated_tensor_sharding": True}),
    (["batching.replicas=2"], {"replicas": 2}),
    (["batching.device_iterations=5"], {"device_iterations": 5}),
    (["batching.gradient_accumulation=7"], {"gradient_accumulation": 7}),
    (["data.name=synthetic"], {"host_transfers": False}),
    (["optimizer.name=sgd"], {"optimizer": OptimizerState("sgd", 1)}),
    (["optimizer.name=sgd", "optimizer.momentum=0"], {"optimizer": OptimizerState("sgd", 0)}),
    (["optimizer.momentum=0"], {"optimizer": OptimizerState("rmsprop", 1)}),
    (["optimizer.name=adamw"], {"optimizer": OptimizerState("adamw", 2)}),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), SETTINGS, ids=lambda given: str(given)[:60])
def test_a_setting_reaches_the_execution(
    graph: Graph, overrides: List[str], expected: Json
) -> None:
    execution = executed(graph, *overrides)
    assert {name: getattr(execution, name) for name in expected} == expected


def test_checkpoints_are_what_their_modules_return(graph: Graph) -> None:
    names = ["blocks.1", "blocks.4.0.bn1"]
    execution = executed(graph, f"memory.checkpoints=[{', '.join(names)}]")
    producers = graph.producers()
    scopes = [producers[tensor].scope for tensor in sorted(execution.checkpoints)]
    assert len(scopes) == 2
    assert all(scope.startswith(f"net.{name}") for scope, name in zip(scopes, names))
    readers = graph.consumers()
    for tensor, name in zip(sorted(execution.checkpoints), names):
        outside = [op.scope for op in readers[tensor] if not op.scope.startswith(f"net.{name}.")]
        assert outside, f"nothing beyond {name} reads its result"


@pytest.mark.parametrize(
    ("types", "activations", "weights"),
    [
        ("32.32", Element.FLOAT, Element.FLOAT),
        ("16.32", Element.HALF, Element.HALF),  # float32 ones are cast for every micro-batch
        ("16.16", Element.HALF, Element.HALF),
    ],
)
def test_precision_decides_the_types_of_data_and_weights(
    types: str, activations: Element, weights: Element
) -> None:
    graph = trace_run(tiny_run(f"precision.types='{types}'"), 4)
    convolutions = [op for op in graph.ops if op.kind == "conv"]
    assert convolutions
    assert {graph.tensors[op.outputs[0]].element for op in convolutions} == {activations}
    assert {tensor.element for tensor in graph.parameters} == {weights}


def test_inference_runs_as_evaluation_does() -> None:
    run = tiny_run("memory.optimizer_state_off_chip=true", "batching.replicas=2")
    graph = trace_run(run, 4, "inference")
    expected = replace(
        executed(graph, "batching.replicas=2"),
        mode="inference",
        gradient_accumulation=1,
        device_iterations=3,  # as many micro-batches per call as training accumulates
        recomputation="none",
        optimizer=OptimizerState(),
    )
    assert execution_of(run, graph, "inference") == expected


def test_a_pipeline_in_inference_runs_as_many_micro_batches_as_it_has_stages() -> None:
    run = tiny_run("planning.mode=inference", "batching.gradient_accumulation=1")
    assert execution_of(run, Graph(), "inference").device_iterations == 2


def test_the_mode_is_the_flags_or_that_of_the_run(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(small), "--json"]
    by_flag = json.loads(printed(capsys, *arguments, "--mode", "inference"))
    by_run = json.loads(printed(capsys, *arguments, *set_flags("planning.mode=inference")))
    assert by_flag == by_run
    assert by_flag["mode"] == "inference"
    assert by_flag["global_batch_size"] == 1
    training = json.loads(printed(capsys, *arguments))
    assert training["mode"] == "training"
    assert by_flag["throughput_samples_per_s"] > training["throughput_samples_per_s"]


# ---- the traced graph


def test_the_graph_of_inference_is_the_training_graph_without_what_only_trains() -> None:
    training, inference = trace_run(tiny_run(), 4), trace_run(tiny_run(), 4, "inference")
    assert inference.parameter_elements == training.parameter_elements
    assert inference.stages == training.stages == 2

    def kinds(graph: Graph, name: str) -> int:
        return sum(op.kind == name for op in graph.ops)

    for kind in ("conv", "matmul", "group_norm"):
        assert kinds(inference, kind) == kinds(training, kind) > 0
    assert kinds(inference, "dropout") == 0


@pytest.mark.parametrize("name", ["digits.yml", "g16_b0_generated.yml"])
def test_the_graph_has_exactly_the_parameters_of_the_network(name: str) -> None:
    run = load_run(CONFIGS / name, [])
    channels, num_classes = image_shape(run.data)
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    expected = {f"net.{name}": tuple(p.shape) for name, p in net.named_parameters()}
    graph = trace_run(run, 1)
    found = {tensor.name: tensor.shape for tensor in graph.parameters}
    assert found == expected
    assert graph.parameter_elements == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "splits", [[], ["blocks.3.0"], ["blocks.1", "blocks.3.0", "blocks.5.0.conv_dw"]]
)
def test_splits_become_stages_on_ipus_of_their_own(splits: List[str]) -> None:
    run = tiny_run(f"pipeline.splits=[{', '.join(splits)}]", "batching.gradient_accumulation=7")
    graph = trace_run(run, 4)
    assert graph.stages == len(splits) + 1
    assert all(op.ipu == op.stage for op in graph.ops)
    for stage, name in enumerate(splits, start=1):
        first = next(op for op in graph.ops if op.stage == stage)
        assert first.scope == f"net.{name}" or first.scope.startswith(f"net.{name}.")
        before = {op.scope for op in graph.ops if op.stage < stage}
        assert not [scope for scope in before if scope.startswith(f"net.{name}")]


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (["blocks.3.0", "blocks.1"], "is not the order in which"),
        (["conv_stem"], "no layer runs in the stage before 'conv_stem'"),
    ],
)
def test_splits_are_held_against_the_traced_order(splits: List[str], sentence: str) -> None:
    run = tiny_run(f"pipeline.splits=[{', '.join(splits)}]", "batching.gradient_accumulation=7")
    with pytest.raises(ConfigError, match=sentence):
        trace_run(run, 2)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_graph_is_that_of_a_micro_batch(micro_batch: int) -> None:
    graph = trace_run(tiny_run(), micro_batch)
    images, labels = (graph.tensors[tensor] for tensor in graph.inputs)
    assert (images.shape, images.element) == ((micro_batch, 3, 8, 8), Element.UINT8)
    assert (labels.shape, labels.role) == ((micro_batch,), Role.INPUT)
    assert graph.producers()[graph.outputs[0]].kind == "identity_loss"


def test_tracing_takes_no_memory_and_no_randomness() -> None:
    before = torch.get_rng_state()
    trace_run(tiny_run(), 4)
    assert torch.equal(torch.get_rng_state(), before)
