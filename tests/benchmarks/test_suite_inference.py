"""The section on inference: the search for the largest batch, a sweep, ratios, missing results."""

import json
from typing import Any, Dict, List, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rows import throughput_row
from benchmarks.suite.chapters import Chapter
from benchmarks.suite.charts import DARK, LIGHT, svg
from benchmarks.suite.inference_jobs import growing, largest_between, sweep
from benchmarks.suite.jobs import Job
from benchmarks.suite.sections.inference import INFERENCE

# -- the search -----------------------------------------------------------------------------------


@given(st.integers(1, 3000))
def test_the_largest_batch_is_found_to_a_sixteenth(limit: int) -> None:
    asked: List[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= limit

    batches, refused = growing(fits, 4096)
    powers = [1 << power for power in range(limit.bit_length())]
    assert batches[: len(powers)] == powers and len(batches) <= len(powers) + 1
    assert refused == 2 * powers[-1]
    assert batches[-1] <= limit <= batches[-1] * 17 / 16 + 1
    assert len(asked) <= len(powers) + 1 + 4


def test_nothing_that_fits_and_nothing_that_does_not() -> None:
    assert growing(lambda _: False, 64) == ([], 1)
    assert growing(lambda _: True, 64) == ([1, 2, 4, 8, 16, 32, 64], None)


def test_a_batch_that_is_found_fits_even_where_a_smaller_one_does_not() -> None:
    def fits(batch: int) -> bool:
        return batch not in (6, 8)

    assert largest_between(fits, 4, 8) == 5
    assert fits(largest_between(lambda batch: batch % 3 == 1, 16, 32))


# -- a sweep --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Dict[str, Any]:
    """A small network with proxy norm on one IPU."""
    return sweep("digits.yml", [], largest=2)


def test_larger_batches_take_longer_and_less_per_image(digits: Dict[str, Any]) -> None:
    points = digits["points"]
    assert [each["batch"] for each in points] == [1, 2]
    assert digits["misfit"] is None and all(each["fits"] for each in points)
    for one, more in zip(points, points[1:]):
        assert one["latency_s"] <= more["latency_s"] <= 2 * one["latency_s"]
        assert more["images_per_s"] > one["images_per_s"]
        assert more["peak_tile_bytes"] >= one["peak_tile_bytes"]
    for each in points:  # one replica, one stage, an idle host: no batch waits for another
        assert each["ipus"] == each["replicas"] == each["stages"] == 1
        assert each["host_s"] == 0
        assert each["images_per_s"] == pytest.approx(each["batch"] / each["latency_s"])


def test_proxy_statistics_worked_out_once_save_time(digits: Dict[str, Any]) -> None:
    hoisted = sweep("digits.yml", [], hoisted=True, largest=1)
    assert hoisted["points"][0]["latency_s"] < digits["points"][0]["latency_s"]


def test_a_pipeline_gives_a_batch_no_shorter_way_but_more_of_them(digits: Dict[str, Any]) -> None:
    (cut,) = sweep("digits.yml", ["blocks.3.0"], largest=1)["points"]
    whole = digits["points"][0]
    assert cut["ipus"] == cut["stages"] == 2
    assert cut["latency_s"] > whole["latency_s"]
    assert whole["images_per_s"] < cut["images_per_s"] < 2 * whole["images_per_s"]


# -- the section ----------------------------------------------------------------------------------


def _result(job: Job) -> Dict[str, Any]:
    """A batch of b takes (1 + b) ms in every network, half of that in those with G16, a quarter of
    it in PopRT; each stage divides the time from one batch to the next."""
    given = json.loads(job.arguments)
    if "row" in given:
        batch = int(given["row"]["micro_batch"])
        return _point(batch, 1e-3 * (1 + batch) / 4, 1)
    faster = 2 if "-g16-" in given["config"] else 1
    stages = len(given["splits"]) + 1
    return {
        "points": [_point(b, 1e-3 * (1 + b) / faster, stages) for b in (1, 2, 4, 8, 12)],
        "misfit": {"batch": 16, "peak_tile_bytes": 700_000},
        "tile_memory_bytes": 638_976,
    }


def _point(batch: int, latency_s: float, stages: int) -> Dict[str, Any]:
    return {
        "batch": batch,
        "latency_s": latency_s,
        "images_per_s": stages * batch / latency_s,
        "peak_tile_bytes": 300_000,
        "fits": True,
    }


def _all() -> Dict[Job, Any]:
    return {job: _result(job) for job in INFERENCE.jobs("all")}


def _rows(chapter: Chapter, key: str) -> List[Mapping[str, Any]]:
    (table,) = [each for each in chapter.tables if each.key == key]
    return list(table.rows)


def test_every_published_batch_is_simulated_and_those_between_carry_no_published_figure() -> None:
    rows = [json.loads(job.arguments).get("row") for job in INFERENCE.jobs("all")]
    poprt = {int(row["micro_batch"]): row for row in rows if row is not None}
    assert sorted(poprt) == [1, 2, 4, 8, 16, 32, 64, 90]
    published = [batch for batch, row in poprt.items() if "throughput_img_s" in row]
    assert sorted(published) == [1, 8, 32, 90]
    executions = [throughput_row(row).execution for row in poprt.values()]
    assert {each.host_transfers for each in executions} == {False}
    assert len({(each.mode, each.sdk, each.replicas) for each in executions}) == 1


def test_the_fast_part_is_a_small_part_of_all() -> None:
    fast, everything = INFERENCE.jobs("fast"), INFERENCE.jobs("all")
    assert set(fast) < set(everything) and len(fast) <= 4
    assert not any(job.alone for job in everything)


def test_what_does_not_fit_has_a_row_that_says_so_and_no_figures_of_speed() -> None:
    rows = _rows(INFERENCE.chapter(_all()), "batches")
    assert len(rows) == 12 * 6
    misfits = [row for row in rows if row["fits"] == "does not fit"]
    assert len(misfits) == 12
    for row in misfits:
        assert row["batch"] == 16 and row["memory"] == pytest.approx(100 * 700_000 / 638_976)
        assert "latency_ms" not in row and "images_per_s" not in row
    for row in rows:
        if row["fits"] == "fits":
            assert row["per_ipu"] == pytest.approx(row["images_per_s"] / row["ipus"])


def test_the_published_time_of_a_batch_is_the_batch_over_its_throughput() -> None:
    chapter = INFERENCE.chapter(_all())
    published = {1: 3653.0, 8: 9805.0, 32: 14240.0, 90: 17105.0}
    rows = {row["batch"]: row for row in _rows(chapter, "poprt")}
    assert all(rows[b]["published_ms"] == pytest.approx(1e3 * b / published[b]) for b in published)
    assert all("published" not in rows[batch] for batch in (2, 4, 16, 64))
    pairs = [(8, 1), (32, 8), (90, 32)]
    assert len(chapter.trends) == len(pairs)
    for trend, (over, under) in zip(chapter.trends, pairs):
        assert trend.simulated == pytest.approx((1 + over) / (1 + under))
        expected = over / published[over] / (under / published[under])
        assert trend.published == pytest.approx(expected)


def test_the_lead_has_the_ratios_of_its_results() -> None:
    lead = INFERENCE.chapter(_all()).lead
    assert "**B0 G16, GN** takes **1.00 ms** for one image (1,000 images/s)" in lead
    assert (
        "B0, GN: G16 is 2.00 times as fast as G1 at a batch of 1 and **2.00 times** at 12" in lead
    )
    # four stages, each a quarter of the time, and the same latency
    assert "4.0 times the throughput of one at 1.00 times its latency at a batch of 4" in lead


def test_every_network_has_figures_of_its_ends() -> None:
    chapter = INFERENCE.chapter(_all())
    values = {each.name: each.value for each in chapter.quantities}
    assert len(values) == len(chapter.quantities) == 12 * 5 + 8
    assert values["inference/b4-g1-gn/largest-batch"] == 12
    assert values["inference/b4-g1-gn/largest-latency"] == pytest.approx(13.0)
    assert values["inference/b4-g1-gn/batch-1-throughput"] == pytest.approx(500.0)


def test_without_results_there_is_a_lead_and_nothing_else() -> None:
    chapter = INFERENCE.chapter({})
    assert chapter.lead
    assert not (chapter.tables or chapter.pictures or chapter.trends or chapter.quantities)


def test_the_fast_part_alone_has_its_trends_and_one_picture() -> None:
    chapter = INFERENCE.chapter({job: _result(job) for job in INFERENCE.jobs("fast")})
    assert len(chapter.trends) == 3
    assert [each.key for each in chapter.pictures] == ["poprt"]


def test_a_network_of_which_nothing_fits_is_in_the_table_alone() -> None:
    results = _all()
    for job, result in results.items():
        if "b4-g1-" in job.arguments:
            results[job] = {**result, "points": [], "misfit": {**result["misfit"], "batch": 1}}
    chapter = INFERENCE.chapter(results)
    rows = [row for row in _rows(chapter, "batches") if row["name"] == "B4 G1, GN"]
    assert [row["fits"] for row in rows] == ["does not fit"]
    assert not any("/b4-g1-gn/" in each.name for each in chapter.quantities)
    assert "B4, GN: G16 is" not in chapter.lead
    for picture in chapter.pictures:
        assert svg(picture.draw(LIGHT)).startswith("<svg")


def test_pictures_name_unit_and_origin_in_both_themes() -> None:
    chapter = INFERENCE.chapter(_all())
    assert [each.key for each in chapter.pictures] == [
        "batch", "front", "groups", "pipeline", "poprt"
    ]  # fmt: skip
    for picture in chapter.pictures:
        for theme in (LIGHT, DARK):
            axes = picture.draw(theme).get_axes()
            assert "simulated" in axes[0].get_ylabel()
            assert axes[0].get_legend() is not None
            assert all(each.get_xlabel() for each in axes)
