"""Convolutions of the suite: counts, units of the network, and what is made of results."""

import json
from typing import Any, Dict, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.config import find_system
from app.ipu_model.calibration import conv_calibration
from app.ipu_model.cost.convolution import ConvOptions, DataType, conv_params
from app.ipu_model.cost.convolution.layer import layer_cost
from app.ipu_model.target import Target
from benchmarks.suite.charts import DARK, LIGHT, png
from benchmarks.suite.group_convolutions import measured as measuring
from benchmarks.suite.group_convolutions.measured import (
    convolution_times,
    measurement_job,
    times_here,
)
from benchmarks.suite.group_convolutions.shapes import (
    Shape,
    constant_work,
    group_sizes,
    network_shapes,
    over_group_size,
)
from benchmarks.suite.group_convolutions.simulated import on_ipus, simulation_job
from benchmarks.suite.group_convolutions.speeds import LABELS, MODES, simulated, speeds
from benchmarks.suite.jobs import Job, Result
from benchmarks.suite.sections.group_convolutions import GROUP_CONVOLUTIONS

RATES = {"flops_per_s": 1e11, "bytes_per_s": 1e10, "element_bytes": 4, "threads": 2}


def test_counts_follow_from_sizes() -> None:
    shape = Shape(batch=8, channels=256, field=28, kernel=3, group_size=16)
    assert shape.groups == 16
    assert shape.macs == 8 * 28 * 28 * 256 * 16 * 9
    assert shape.elements == 8 * 256 * 2 * 28 * 28 + 256 * 16 * 9
    assert shape.intensity(2) == shape.macs / shape.elements
    strided = Shape(batch=1, channels=4, field=7, kernel=5, group_size=1, stride=2)
    assert (strided.output, strided.macs) == (4, 4 * 4 * 4 * 25)


def test_intensity_over_group_size_is_the_known_one() -> None:
    known = [4.50, 8.99, 17.95, 35.79, 71.18, 140.8, 275.4, 527.6, 973.2]
    found = [shape.intensity(2) for shape in over_group_size(256, 28, 3)]
    assert found == pytest.approx(known, rel=2e-3)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="24 channels are no groups of 16"):
        Shape(1, 24, 8, 3, 16)


@given(channels=st.integers(1, 600))
def test_group_sizes_divide_the_channels_and_end_dense(channels: int) -> None:
    sizes = group_sizes(channels)
    assert (sizes[0], sizes[-1]) == (1, channels)
    assert sizes == sorted(set(sizes))
    assert all(channels % size == 0 for size in sizes)


def test_work_stays_the_same_while_channels_grow() -> None:
    shapes = constant_work(64, 14, 5)
    assert {shape.macs for shape in shapes} == {8 * 14 * 14 * 64 * 64 * 25}
    assert [shape.channels for shape in shapes] == [4096, 2048, 1024, 512, 256, 128, 64]


def test_units_of_the_network_are_those_of_the_paper() -> None:
    depthwise, grouped = dict(network_shapes(1, 6)), dict(network_shapes(16, 4))
    assert len(depthwise) == len(grouped) == 16
    assert depthwise["blocks.2.1"] == Shape(8, 240, 28, 5, 1)
    assert grouped["blocks.2.1"] == Shape(8, 160, 28, 5, 16)
    assert grouped["blocks.1.0"] == Shape(8, 64, 112, 3, 16, stride=2)


SMALL = [Shape(1, 16, 8, 3, size) for size in (1, 16)]


def test_simulated_cycles_are_those_of_the_layer() -> None:
    found = on_ipus([shape.arguments for shape in SMALL])
    target = Target.of(find_system("ipu-m2000"))
    calibration = conv_calibration(target.calibration_name)
    params = conv_params(1, 16, 16, (8, 8), (3, 3), padding=[(1, 1), (1, 1)])
    half = ConvOptions(partials_type=DataType.HALF)
    dense = found["mk2"]["shapes"][1]
    cycles = sum(each["cycles"] for each in dense["passes"].values())
    assert dense["fits"]
    assert cycles == layer_cost(params, target.planner, half).cycles(calibration)
    assert found["bow"]["shapes"] == found["mk2"]["shapes"]  # only the clock differs


def test_peaks_are_those_of_the_data_sheets() -> None:
    """Graphcore: 125 TFLOP/s (GC2), 250 (GC200) and 350 (Bow) in half precision."""
    found = on_ipus([])
    peaks = [found[chip]["peak_flops_per_s"] / 1e12 for chip in ("mk1", "mk2", "bow")]
    assert peaks == pytest.approx([125, 250, 350], rel=0.01)


def test_speeds_follow_from_cycles_and_clock() -> None:
    results = {simulation_job(SMALL): on_ipus([shape.arguments for shape in SMALL])}
    result = results[simulation_job(SMALL)]["mk1"]
    dense = simulated(results, SMALL)["mk1"][1]
    passes = result["shapes"][1]["passes"]
    seconds = passes["forward"]["cycles"] / 1.6e9
    assert dense.images_per_s("forward") == pytest.approx(1 / seconds)
    assert dense.flops_per_s("forward") == pytest.approx(2 * SMALL[1].macs / seconds)
    total = sum(each["cycles"] for each in passes.values()) / 1.6e9
    assert dense.flops_per_s("training") == pytest.approx(6 * SMALL[1].macs / total)
    for mode in MODES:
        causes = dense.detail["causes"][mode]
        assert sum(causes.values()) == pytest.approx(1)
        # rounding to whole cycles apart, useful work is the share of the peak
        assert dense.share(mode) == pytest.approx(next(iter(causes.values())), rel=1e-3)


def test_a_shape_that_does_not_fit_is_left_out() -> None:
    result = on_ipus([shape.arguments for shape in SMALL])
    result["mk1"]["shapes"][0]["fits"] = False
    found = speeds({simulation_job(SMALL): result}, SMALL)
    assert [one.shape for one in found["mk1"]] == SMALL[1:]
    assert [one.shape for one in found["mk2"]] == SMALL


def test_the_roof_is_the_slower_of_arithmetic_and_movement() -> None:
    shapes = over_group_size(256, 28, 3)
    found = speeds(_results(shapes), shapes)["cpu"]
    assert found[0].roof_flops_per_s == pytest.approx(shapes[0].intensity(4) * 1e10)
    assert found[-1].roof_flops_per_s == 1e11


def test_a_training_step_computes_torch_s_own_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights move by the gradient that autograd finds."""
    made: List[torch.Tensor] = []

    def kept(device: torch.device, *sizes: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(made))
        made.append(torch.randn(*sizes, generator=generator, dtype=torch.float64))
        return made[-1]

    monkeypatch.setattr(measuring, "_random", kept)
    shape = Shape(2, 8, 7, 3, 4, stride=2)
    _, training = measuring._steps(shape, torch.device("cpu"), torch.contiguous_format)
    images, change, weights = made
    free = weights.clone().requires_grad_()
    result = torch.nn.functional.conv2d(images, free, None, 2, 1, 1, 2)
    (gradient,) = torch.autograd.grad(result, free, change)
    before = weights.clone()
    training()
    torch.testing.assert_close((before - weights) / 1e-6, gradient)


def test_times_are_ordered_and_of_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_SECONDS", 0.0)
    found = times_here([shape.arguments for shape in SMALL])["cpu"]
    assert len(found["shapes"]) == len(SMALL)
    assert min(found["best"].values()) > 0
    for each in found["shapes"]:
        for mode in MODES:
            assert 0 < each[mode]["low_s"] <= each[mode]["median_s"] <= each[mode]["high_s"]
            assert each[mode]["rounds"] == 5


def test_times_are_those_of_a_process_that_keeps_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: List[Any] = []

    def process(words: List[str], variables: Dict[str, str]) -> Tuple[Dict[str, float], str]:
        asked.append((words, sorted(variables)))
        return {}, json.dumps({"cpu": {}})

    monkeypatch.setattr(measuring, "measured", process)
    assert convolution_times([SMALL[0].arguments]) == {"cpu": {}}
    ((_, call), variables) = asked[0]
    assert f"times_here([{SMALL[0].arguments}])" in call
    assert variables == ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]


def _results(shapes: List[Shape]) -> Dict[Job, Result]:
    """Made-up times on this machine: a nanosecond for each multiply-add of a pass."""

    def times(shape: Shape) -> Dict[str, Any]:
        forward = shape.macs * 1e-9
        return {
            mode: {
                "layout": "channels last", "low_s": 0.9 * each, "median_s": each,
                "high_s": 1.1 * each, "rounds": 5,
            }
            for mode, each in (("forward", forward), ("training", 3 * forward))
        }  # fmt: skip

    there = {"best": RATES, "shapes": [times(shape) for shape in shapes]}
    return {measurement_job(shapes): {"cpu": there}}


def test_the_ceiling_is_the_best_that_any_job_found() -> None:
    slow, fast = over_group_size(256, 28, 3), constant_work(64, 14, 5)
    results = {**_results(slow), **_results(fast)}
    results[measurement_job(fast)]["cpu"]["best"] = {**RATES, "flops_per_s": 4e11}
    assert {one.ceiling_flops_per_s for one in speeds(results, slow)["cpu"]} == {4e11}


def test_a_chapter_of_what_was_measured_alone_is_whole() -> None:
    shapes = over_group_size(256, 28, 3)
    results = _results(shapes)
    results.update(_results(constant_work(64, 14, 5)))
    chapter = GROUP_CONVOLUTIONS.chapter(results)
    (table,) = chapter.tables
    assert table.key == "measured" and len(table.rows) == 9 + 7
    shares = [row["forward_share"] for row in table.rows]
    assert shares == pytest.approx([2.0] * len(shares))  # 2 of 100 GFLOP/s
    assert "**256** on this CPU" in chapter.lead  # the rate holds, so a 256th takes a 256th
    assert "1.00 on this CPU" in chapter.lead
    assert all(each.origin == "measured" for each in chapter.quantities)
    for picture in chapter.pictures:
        for theme in (LIGHT, DARK):
            assert png(picture.draw(theme)).startswith(b"\x89PNG")


def test_devices_and_series_have_colours_of_their_own() -> None:
    assert len(LABELS) <= len(set(LIGHT.series)) == len(set(DARK.series))
