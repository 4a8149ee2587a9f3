"""The section on larger systems: the rows it makes, efficiency, trends, and missing results."""

import json
from typing import Any, Dict, List, Mapping

import pytest

from app.config import find_system
from benchmarks.rows import throughput_row
from benchmarks.suite import paper
from benchmarks.suite.chapters import Chapter
from benchmarks.suite.charts import DARK, LIGHT, svg
from benchmarks.suite.jobs import Job
from benchmarks.suite.sections.scaling import SCALING, resized
from benchmarks.suite.simulations import row_job

SYSTEMS = (
    "IPU-M2000", "IPU-POD16", "IPU-POD64", "IPU-POD128", "IPU-POD256",
    "Bow-2000", "Bow Pod16", "Bow Pod64", "Bow Pod128", "Bow Pod256",
)  # fmt: skip


def _row(job: Job) -> Dict[str, str]:
    row: Dict[str, str] = json.loads(job.arguments)["row"]
    return row


def _result(row: Mapping[str, str]) -> Dict[str, Any]:
    """100 images/s of an IPU, less 10 % for each fourfold system; a fifth of a step reduces."""
    ipus = int(row["ipus"])
    lost = {4: 0, 16: 1, 64: 2, 128: 3, 256: 4}[ipus]
    stages = int(row["stages"])
    return {
        "images_per_s": ipus * (100.0 - 10 * lost),
        "step_time_s": 0.05,
        "all_reduce_s": 0.01,
        "ipus": ipus,
        "replicas": ipus // stages,
        "stages": stages,
        "global_batch_size": (
            int(row["micro_batch"]) * int(row["grad_accum"]) * int(row["replicas"])
        ),
        "fits": True,
    }


def _all() -> Dict[Job, Any]:
    return {job: _result(_row(job)) for job in SCALING.jobs("all")}


def _rows(chapter: Chapter, key: str) -> List[Mapping[str, Any]]:
    (table,) = [each for each in chapter.tables if each.key == key]
    return list(table.rows)


@pytest.mark.parametrize("name", ["b0-g16-gn-native", "b4-g16-lnpn-native"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resized_row_fills_its_system_and_keeps_each_replicas_work(
    name: str, system: str
) -> None:
    base = paper.authors_row(name)
    row = resized(base, system)
    execution = throughput_row(row).execution
    assert execution.replicas * int(base["stages"]) == find_system(system).ipus == int(row["ipus"])
    assert execution.micro_batch == int(base["micro_batch"])
    assert execution.gradient_accumulation == int(base["grad_accum"])


def test_the_global_batch_is_held_exactly_and_pipelines_have_enough_micro_batches() -> None:
    held: Dict[str, List[int]] = {}
    for system in SYSTEMS:
        for row, batch in (
            (paper.authors_row("b0-g16-lnpn-native"), 6144),
            (paper.published_row("mlperf-v1.1-rn50-128"), 5120),
        ):
            execution = throughput_row(resized(row, system, batch)).execution
            made = execution.micro_batch * execution.gradient_accumulation * execution.replicas
            assert made == batch
            assert execution.gradient_accumulation >= 2 * int(row["stages"]) - 1
            held.setdefault(row["id"], []).append(execution.gradient_accumulation)
    for counts in held.values():  # Mk2, then Bow
        assert counts[:5] == sorted(counts[:5], reverse=True) == counts[5:]


def test_a_published_row_on_its_own_system_stays_itself_and_shares_its_simulation() -> None:
    row = paper.published_row("mlperf-v1.1-rn50-128")
    assert row_job(resized(row, "IPU-POD128", 5120)) == row_job(row)
    assert row_job(row) in SCALING.jobs("all")


def test_no_published_figure_goes_along_to_another_system() -> None:
    row = paper.published_row("mlperf-v1.1-rn50-16")
    other = resized(row, "IPU-POD64")
    assert "throughput_img_s" not in other and "source" not in other
    assert other["id"] != row["id"] and other["sdk"] == row["sdk"]


def test_the_fast_part_is_a_small_part_of_all() -> None:
    fast, everything = SCALING.jobs("fast"), SCALING.jobs("all")
    assert set(fast) < set(everything) and len(fast) <= 3
    assert not any(job.alone for job in everything)


def test_efficiency_is_throughput_per_ipu_over_that_of_the_smallest_system() -> None:
    chapter = SCALING.chapter(_all())
    expected = {4: 100.0, 16: 90.0, 64: 80.0, 128: 70.0, 256: 60.0}
    rows = _rows(chapter, "growing") + _rows(chapter, "held")
    assert len(rows) == 4 * 10 + 2 * 5
    assert all(row["efficiency"] == pytest.approx(expected[row["ipus"]]) for row in rows)
    assert all(row["all_reduce_share"] == pytest.approx(20.0) for row in rows)
    assert "60.0 to 60.0 %" in chapter.lead


def test_trends_are_ratios_of_throughputs() -> None:
    by_name = {each.name: each for each in SCALING.chapter(_all()).trends}
    assert len(by_name) == 3
    # 128 IPUs at 70 images/s over 16 at 90; 64 at 80 over 16 at 90
    mk2 = by_name["ResNet-50: IPU-POD128 over IPU-POD16"]
    assert mk2.simulated == pytest.approx(128 * 70 / (16 * 90))
    assert mk2.published == pytest.approx(178212 / 29469)
    bow = by_name["ResNet-50: Bow Pod64 over Bow Pod16"]
    assert bow.simulated == pytest.approx(64 * 80 / (16 * 90))
    assert "SDK 2.5.1 and SDK 3.0" in bow.source


def test_published_figures_stand_only_beside_the_program_they_belong_to() -> None:
    rows = _rows(SCALING.chapter(_all()), "growing")
    published = {(row["network"], row["system"]): row["published"] for row in rows}
    found = {where: value for where, value in published.items() if value is not None}
    assert found == {
        ("b0-g16-gn-native", "IPU-POD16"): 29600.0,
        ("b0-g16-lnpn-native", "IPU-POD16"): 24884.0,
        ("b4-g16-lnpn-native", "IPU-POD16"): 4175.0,
        ("resnet50", "IPU-POD16"): 29469.0,
    }


def test_every_simulated_throughput_is_a_figure_of_its_own() -> None:
    chapter = SCALING.chapter(_all())
    names = [each.name for each in chapter.quantities]
    assert len(set(names)) == len(names) == 50
    assert "scaling/resnet50-batch-5120/ipu-pod128" in names
    assert "scaling/b0-g16-gn-native/bow-pod256" in names
    assert all(each.origin == "simulated" for each in chapter.quantities)


def test_without_the_smallest_system_there_is_no_efficiency_and_the_rest_stands() -> None:
    results = {job: each for job, each in _all().items() if _row(job)["ipus"] != "4"}
    chapter = SCALING.chapter(results)
    assert all(row["efficiency"] is None for row in _rows(chapter, "growing"))
    assert len(chapter.quantities) == 50 - 10
    assert "of what each of 4 does" not in chapter.lead
    for picture in chapter.pictures:
        assert svg(picture.draw(LIGHT)).startswith("<svg")


def test_without_results_there_is_a_lead_and_nothing_else() -> None:
    chapter = SCALING.chapter({})
    assert chapter.lead
    assert not (chapter.tables or chapter.pictures or chapter.trends or chapter.quantities)


def test_pictures_name_unit_and_origin_in_both_themes() -> None:
    for picture in SCALING.chapter(_all()).pictures:
        for theme in (LIGHT, DARK):
            axes = picture.draw(theme).get_axes()
            label = axes[0].get_ylabel()
            assert "simulated" in label and ("images/s" in label or "%" in label)
            legend = axes[0].get_legend()
            assert legend is not None and len(legend.get_texts()) >= 4
            for each in axes:
                assert [text.get_text() for text in each.get_xticklabels()] == [
                    "4", "16", "64", "128", "256"
                ]  # fmt: skip
