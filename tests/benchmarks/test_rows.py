"""Rows of published tables as programs: nothing is simulated here."""

from collections import Counter
from typing import Any, Dict, FrozenSet, List

import pytest

from app.config import find_system
from app.ipu_model.graph import Element, Graph, Op
from app.ipu_model.program import Execution, OptimizerState
from benchmarks.rows import Program, RowError, figure, fitting_row, throughput_row
from benchmarks.tables import PUBLISHED, read_table

Row = Dict[str, str]


def table(name: str) -> List[Row]:
    rows = read_table(PUBLISHED / name)
    assert rows
    return rows


THROUGHPUT = {row["id"]: row for row in table("throughput.csv")}
FITS = {row["id"]: row for row in table("fits.csv")}
TRAINED: Row = {
    "id": "mine",
    "model": "EfficientNet-B0",
    "group_size": "16",
    "norm": "GN4",
    "mode": "training",
    "system": "IPU-POD16",
    "ipus": "16",
    "replicas": "8",
    "stages": "2",
    "micro_batch": "12",
    "grad_accum": "8",
    "resolution": "64",
    "pipeline_splits": "blocks.2.1",
    "optimizer": "rmsprop_tf",
    "recompute": "yes",
    "precision": "16.32",
    "sdk": "2.0",
}
FITTED: Row = {
    "id": "mine",
    "model": "ResNet-50",
    "norm": "BN",
    "mode": "training",
    "target": "mk2",
    "ipus_per_replica": "1",
    "micro_batch_fits": "18",
    "optimizer": "sgd",
}


def makers(graph: Graph, tensors: FrozenSet[int]) -> List[Op]:
    found = graph.producers()
    return [found[tensor] for tensor in sorted(tensors)]


# ---- published rows


@pytest.mark.parametrize("name", THROUGHPUT)
def test_a_published_throughput_is_of_a_program(name: str) -> None:
    row = THROUGHPUT[name]
    program = throughput_row(row)
    execution = program.execution
    assert execution.training == (row["mode"] == "training")
    assert program.stages * execution.replicas == int(row["ipus"])
    assert find_system(row["system"]).ipus >= int(row["ipus"])
    assert execution.micro_batch == int(row["micro_batch"])
    assert execution.gradient_accumulation == int(row["grad_accum"] or 1)
    assert program.image_size == int(row["resolution"])
    assert program.half == (row["precision"] != "32.32")
    assert figure(row, "throughput_img_s") == float(row["throughput_img_s"])


@pytest.mark.parametrize("name", FITS)
def test_a_published_fit_is_of_a_program(name: str) -> None:
    row = FITS[name]
    program = fitting_row(row)
    assert program.stages == int(row["ipus_per_replica"])
    assert program.execution.micro_batch == int(row["micro_batch_fits"])
    assert program.execution.replicas == (2 if program.training else 1)
    needed = 2 * program.stages - 1
    assert not program.training or program.execution.gradient_accumulation >= needed


def test_a_row_says_all_of_its_execution() -> None:
    row = {**TRAINED, "available_memory_proportion": "0.07/0.2;0.1/0.1", "note": "state offloaded"}
    assert throughput_row(row).execution == Execution(
        micro_batch=12,
        gradient_accumulation=8,
        replicas=8,
        recomputation="pipeline",
        available_memory_proportion=(0.07, 0.1),
        half_partials=True,
        sdk="2.0.0",
        optimizer=OptimizerState("rmsprop", 2, Element.FLOAT),
        float_variables=True,
        state_off_chip=True,
        stable_norm=True,
        hoist_parameter_ops=True,
    )


def test_an_empty_cell_is_a_default() -> None:
    bare = {"model": "ResNet-18", "mode": "inference"}
    program = throughput_row(bare)
    assert (program.image_size, program.stages, program.half) == (224, 1, True)
    assert program.execution == Execution(
        mode="inference",
        device_iterations=128,
        half_partials=True,
        sdk="2.5.0",
        accumulator_element=Element.HALF,
        hoist_parameter_ops=True,
    )
    assert throughput_row({**bare, "norm": "", "replicas": " ", "sdk": ""}) == program


@pytest.mark.parametrize(
    ("precision", "half", "float_variables", "variables"),
    [
        ("16.16", True, False, Element.HALF),
        ("16.32", True, True, Element.FLOAT),
        ("32.32", False, False, Element.FLOAT),
    ],
)
def test_accumulators_and_state_have_the_type_of_the_variables(
    precision: str, half: bool, float_variables: bool, variables: Element
) -> None:
    program = throughput_row({**TRAINED, "precision": precision})
    execution = program.execution
    assert (program.half, execution.half_partials) == (half, half)
    assert execution.float_variables == float_variables
    assert execution.accumulator_element is variables
    assert execution.optimizer.state_element is variables


@pytest.mark.parametrize(
    ("sdk", "release"),
    [
        ("2.0", "2.0.0"),
        ("2.5.1", "2.5.0"),
        ("3.3.0", "3.3.0"),
        ("PopRT 1.x", "3.0.0"),
        ("poplibs 2019/2020", "1.0.0"),
        ("", "2.5.0"),
    ],
)
def test_a_release_is_found_in_the_words_of_a_table(sdk: str, release: str) -> None:
    assert throughput_row({**TRAINED, "sdk": sdk}).execution.sdk == release


@pytest.mark.parametrize(
    ("columns", "stable"),
    [({"norm": "GN4"}, True), ({"norm": "LN+PN"}, True), ({"norm": "BN"}, False)],
)
def test_only_norms_that_mix_no_samples_are_stable(columns: Row, stable: bool) -> None:
    assert throughput_row({**TRAINED, **columns}).execution.stable_norm == stable


# ---- wrong cells


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("model", "VGG-16"),
        ("model", ""),
        ("group_size", "many"),
        ("group_size", "0"),
        ("expand", "four"),
        ("norm", "XN"),
        ("norm", "GN4+P"),
        ("norm", "GN0"),
        ("mode", "validation"),
        ("mode", ""),
        ("ipus", "8"),
        ("ipus", "x"),
        ("replicas", "-1"),
        ("stages", "2.5"),
        ("micro_batch", "0"),
        ("micro_batch", "12 images"),
        ("grad_accum", "no"),
        ("resolution", "224x224"),
        ("pipeline_splits", "blocks.2.1;blocks.3.1"),
        ("pipeline_splits", ""),
        ("available_memory_proportion", "much"),
        ("available_memory_proportion", "1.5"),
        ("optimizer", "shampoo"),
        ("precision", "8.8"),
    ],
)
def test_a_wrong_cell_is_an_error_that_names_its_column(column: str, value: str) -> None:
    with pytest.raises(RowError, match=f"^{column}: ."):
        throughput_row({**TRAINED, column: value})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ipus_per_replica", "2"),
        ("micro_batch_fits", "some"),
        ("mode", "sometimes"),
        ("model", "LeNet"),
        ("precision", "fp16"),
    ],
)
def test_a_wrong_cell_of_a_fit_is_an_error_that_names_its_column(column: str, value: str) -> None:
    with pytest.raises(RowError, match=f"^{column}: ."):
        fitting_row({**FITTED, column: value})


@pytest.mark.parametrize("value", ["fast", "-3", "0", "inf", "nan"])
def test_a_figure_is_a_positive_number(value: str) -> None:
    with pytest.raises(RowError, match=r"^throughput_img_s: ."):
        figure({"throughput_img_s": value}, "throughput_img_s")
    assert figure({"throughput_img_s": " 2.5 "}, "throughput_img_s") == 2.5
    assert figure({"throughput_img_s": ""}, "throughput_img_s") is None
    assert figure({}, "throughput_img_s") is None


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"pipeline_splits": "blocks.99"}, "pipeline_splits"),
        ({"group_size": "7", "norm": "LN"}, "model"),
        ({"norm": "BN", "resolution": "32"}, "micro_batch"),  # single values
    ],
)
def test_what_only_the_network_knows_is_an_error_when_it_is_traced(
    columns: Row, column: str
) -> None:
    program = throughput_row({**TRAINED, **columns})
    with pytest.raises(RowError, match=f"^{column}: ."):
        program.graph(1)


# ---- graphs


def traced(row: Row, micro_batch: int = 1) -> Any:
    program = throughput_row(row)
    return program, program.graph(micro_batch)


def test_inference_folds_batch_norms_into_convolutions() -> None:
    row = {"model": "ResNet-18", "mode": "inference", "resolution": "32"}
    program, graph = traced(row)
    kinds = Counter(op.kind for op in graph.ops)
    assert kinds["batch_norm"] == 0
    assert kinds["conv"] == 20
    assert program.on(graph).checkpoints == frozenset()
    assert program.on(graph).rematerialised == frozenset()
    trained = throughput_row({**row, "mode": "training"}).graph(2)
    assert Counter(op.kind for op in trained.ops)["batch_norm"] == 20


@pytest.mark.parametrize(
    ("model", "blocks", "kept"), [("ResNet-18", 8, 5), ("ResNet-50", 16, 11), ("ResNet-34", 16, 11)]
)
def test_one_ipu_stores_the_results_of_the_first_two_thirds_of_the_residual_blocks(
    model: str, blocks: int, kept: int
) -> None:
    program = fitting_row({**FITTED, "model": model, "recompute": "yes", "resolution": "32"})
    assert program.recompute_blocks
    graph = program.graph(2)
    execution = program.on(graph, 2)
    names = list(dict.fromkeys(op.scope for op in graph.ops))
    own = [name for name in names if name.count(".") == 2 and name.startswith("net.layer")]
    assert len(own) == blocks
    found = makers(graph, execution.checkpoints)
    assert [op.scope for op in found] == own[:kept]
    assert {op.label for op in found} == {"unary.relu"}  # what a block returns
    assert execution.micro_batch == 2


def test_efficientnets_on_one_ipu_store_their_blocks_too() -> None:
    row = {**FITTED, "model": "EfficientNet-B0", "recompute": "yes", "resolution": "32"}
    program = fitting_row(row)
    graph = program.graph(2)
    scopes = [op.scope.split(".")[2:4] for op in makers(graph, program.on(graph).checkpoints)]
    repeats = [1, 2, 2, 3, 3, 4, 1]
    blocks = [[str(stage), str(unit)] for stage, n in enumerate(repeats) for unit in range(n)]
    assert scopes == blocks[:11]


@pytest.mark.parametrize("columns", [{"recompute": "no"}, {"recompute": "n/a"}, {"recompute": ""}])
def test_without_recomputation_nothing_is_a_checkpoint(columns: Row) -> None:
    program: Program = fitting_row({**FITTED, **columns})
    assert program.execution.recomputation == "none"
    assert not program.recompute_blocks


def test_pipelines_recompute_from_stage_inputs_alone() -> None:
    program, graph = traced(TRAINED)
    assert program.execution.recomputation == "pipeline"
    assert graph.stages == 2
    assert program.on(graph).checkpoints == frozenset()


def test_proxy_norms_apply_weight_and_bias_by_operations_and_compute_them_again() -> None:
    program, graph = traced({**TRAINED, "norm": "LN+PN"})
    sites = {
        tensor.name[: -len(".proxy_weight")]
        for tensor in graph.parameters
        if tensor.name.endswith(".proxy_weight")
    }
    # the stem, the head, 16 depthwise convolutions and 15 expansions: where activations follow
    assert len(sites) == 1 + 1 + 16 + 15 == 33
    norms = [op for op in graph.ops if op.kind == "group_norm" and op.scope in sites]
    assert len(norms) == 33
    assert not any(op.attributes["affine"] for op in norms)
    assert all(len(op.inputs) == 1 for op in norms)
    again = makers(graph, program.on(graph).rematerialised)
    assert Counter(op.label for op in again) == {
        "binary.mul": 33,
        "binary.add": 33,
        "unary.silu": 33,
    }
    assert {op.scope for op in again} == sites
    shapes = {op.scope: graph.tensors[op.outputs[0]].shape for op in norms}
    assert all(graph.tensors[op.outputs[0]].shape == shapes[op.scope] for op in again)


def test_plain_norms_stay_whole() -> None:
    program, graph = traced(TRAINED)
    norms = [op for op in graph.ops if op.kind == "group_norm"]
    assert len(norms) == 49
    assert all(op.attributes["affine"] for op in norms)
    assert program.on(graph).rematerialised == frozenset()


def test_a_graph_has_as_many_samples_as_are_asked_for() -> None:
    program, graph = traced({"model": "ResNet-18", "mode": "inference", "resolution": "32"}, 3)
    assert graph.tensors[graph.inputs[0]].shape == (3, 3, 32, 32)
    assert graph.tensors[graph.inputs[0]].element is Element.UINT8
    assert program.on(graph, 3).micro_batch == 3
    assert program.on(graph).micro_batch == 1
