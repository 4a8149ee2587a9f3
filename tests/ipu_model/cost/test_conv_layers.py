"""The calibrated layer cost and the program that compares it with published rows."""

import ast
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Dict, List

import pytest

import app.ipu_model.cost as cost_package
from app.ipu_model.calibration import CONV_CALIBRATIONS, Calibrated, conv_calibration
from app.ipu_model.cost.convolution import ConvOptions, DataType, Pass, conv_params
from app.ipu_model.cost.convolution.held import held_bytes, rearranged_bytes
from app.ipu_model.cost.convolution.layer import layer_cost
from app.ipu_model.cost.convolution.methods import Method
from app.ipu_model.cost.convolution.pass_cost import vertex_state_bytes
from benchmarks import conv_layers
from tests.ipu_model.cost.presets import MK2

TABLE = Path(conv_layers.__file__).parent / "published" / "conv_layers.csv"
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
SOME = [row for row in ROWS if row["layer"] in {"mobilenet_conv_pw_7_1", "mobilenet_depthwise_2"}]


@pytest.mark.parametrize("row", SOME, ids=lambda row: f"{row['layer']}-{row['target']}")
def test_published_layers_are_predicted(row: Dict[str, str]) -> None:
    result = conv_layers.evaluate(row)
    cycles, memory = (result.error[name] for name in conv_layers.QUANTITIES)
    assert cycles is not None and abs(cycles) < 0.15
    assert memory is not None and abs(memory) < 0.2


def test_json_reports_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.csv"
    head = "layer,target,sdk,params,cycles_all_passes,total_memory_bytes,max_tile_memory_bytes"
    lines = [
        'new,mk2,2.0.0,"--field {8,8} --input-channels 16 --output-channels 16",,,',
        'odd,mk2,2.0.0,"--field {8,8} --winograd 1",,,',
        'far,mk9,2.0.0,"--field {8,8}",5,,',
    ]
    table.write_text("\n".join([head, *lines]), encoding="utf-8")
    assert conv_layers.main([str(table), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows: List[Dict[str, object]] = report["rows"]
    assert [row["layer"] for row in rows] == ["new", "odd", "far"]
    assert rows[0]["predicted"] and rows[0]["published"] == dict.fromkeys(conv_layers.QUANTITIES)
    assert rows[1]["predicted"] is None and "--winograd" in str(rows[1]["problem"])
    assert rows[2]["predicted"] is None and "mk9" in str(rows[2]["problem"])
    assert report["summary"]["leave_one_out"] == {name: {} for name in conv_layers.QUANTITIES}
    assert report["summary"]["n"] == 0 and report["summary"]["not_expressible"] == 2


def test_left_out_rows_are_predicted() -> None:
    some = [row for row in ROWS if row["layer"].startswith(("resnet", "mobilenet"))]
    errors = conv_layers.left_out(some)
    for chip in ("mk1", "mk2"):
        assert errors["cycles_all_passes"][chip]["mape"] < 0.06
        assert errors["total_memory_bytes"][chip]["mape"] < 0.1


def test_unreadable_table_is_a_usage_error(tmp_path: Path) -> None:
    assert conv_layers.main([str(tmp_path / "none.csv")]) == 2


def test_every_pass_brings_its_steps() -> None:
    params = conv_params(1, 16, 16, (8, 8), (3, 3), padding=[(1, 1), (1, 1)])
    layer = layer_cost(params, MK2, ConvOptions())
    parts = [layer_cost(params, MK2, ConvOptions(), (cost.pass_,)) for cost in layer.passes]
    assert layer.steps == sum(part.steps for part in parts) >= 2 * 3 * MK2.tiles
    assert layer.state_bytes == sum(part.state_bytes for part in parts)
    assert layer.temporary_bytes == max(part.temporary_bytes for part in parts)


@pytest.mark.parametrize("kernel, windows", [(3, 3 * 1), (5, 5 * 2), (9, 9 * 3)])
def test_a_slic_vertex_has_worklists_for_every_window(kernel: int, windows: int) -> None:
    pads = [(kernel // 2, kernel // 2)] * 2
    params = conv_params(8, 1, 1, (28, 28), (kernel, kernel), groups=256, padding=pads)
    options = ConvOptions(partials_type=DataType.HALF)
    (cost,) = layer_cost(params, MK2, options, (Pass.TRAINING_FWD,)).passes
    parts, candidate = cost.plan.partition, cost.plan.candidate
    assert candidate.method is Method.SLIC
    groups = -(-(256 // candidate.group_grain) // parts.groups)
    rows = -(-8 // parts.batch) * -(-28 // parts.field[0])
    assert vertex_state_bytes(cost.plan) == 30 + 12 * groups + 6 * windows * (rows + 5)


def _vertex_and_held_bytes(padding: int, rows: int) -> "tuple[int, int]":
    pads = [(padding, padding), (0, 0)]
    params = conv_params(4, 160, 192, (rows, 17), (7, 1), padding=pads)
    (cost,) = layer_cost(params, MK2, ConvOptions(sdk="2.0.0"), (Pass.TRAINING_FWD,)).passes
    chosen = cost.plan
    extra = chosen.tiles * (chosen.temporary_bytes - chosen.vertex_bytes)
    held = held_bytes(chosen, DataType.HALF) - rearranged_bytes(chosen, DataType.HALF)
    return chosen.vertex_bytes * chosen.tiles, held - extra


def test_border_tiles_hold_less_than_the_fullest() -> None:
    fullest, held = _vertex_and_held_bytes(padding=3, rows=17)
    assert 0.75 * fullest < held < 0.95 * fullest


def test_even_parts_without_padding_all_count_as_the_fullest() -> None:
    params = conv_params(1, 64, 64, (64, 64), (1, 1))
    (cost,) = layer_cost(params, MK2, ConvOptions(), (Pass.TRAINING_FWD,)).passes
    chosen = replace(
        cost.plan,
        partition=replace(cost.plan.partition, field=(1, 64), out_channels=4, in_channels=1),
        tiles=256,
    )
    ((ins, outs), pb) = (64, 16), chosen.candidate.partial_type.bytes
    expected = 256 * (2 * 64 * ins + 2 * ins * outs + pb * 64 * outs)
    beside = 256 * (chosen.temporary_bytes - chosen.vertex_bytes)
    rearranged = rearranged_bytes(chosen, DataType.HALF)
    assert held_bytes(chosen, DataType.HALF) == expected + beside + rearranged


def test_layer_data_is_both_tensors_both_gradients_and_the_weights() -> None:
    layer = layer_cost(conv_params(2, 3, 5, (4, 4), (1, 1)), MK2, ConvOptions())
    assert layer.data_bytes == 2 * (2 * (2 * 3 * 16 + 2 * 5 * 16) + 3 * 5)


def test_passes_add_up() -> None:
    params = conv_params(1, 16, 32, (8, 8), (3, 3))
    constants = conv_calibration("mk2")
    whole = layer_cost(params, MK2, ConvOptions())
    parts = [
        layer_cost(params, MK2, ConvOptions(), (pass_,))
        for pass_ in (Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU)
    ]
    assert whole.cycles(constants) == sum(part.cycles(constants) for part in parts)


def test_constants_lie_in_their_range_and_bow_shares_mk2s() -> None:
    with pytest.raises(ValueError, match="lies outside"):
        Calibrated(2.0, 0.0, 1.0, "none", 0.0)
    assert conv_calibration("bow") is conv_calibration("IPU2") is CONV_CALIBRATIONS["mk2"]


def test_nothing_here_imports_torch() -> None:
    for path in Path(str(cost_package.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] in {"torch", "poptorch"} for name in names), path
