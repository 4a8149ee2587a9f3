"""The front page: test sizes, rows of inference, ratios, and what it says with results missing."""

from typing import Any, Dict, List

import pytest

from benchmarks.suite import fronts, paper
from benchmarks.suite.charts import DARK, LIGHT, svg
from benchmarks.suite.jobs import Job
from benchmarks.suite.sections.front_page import FRONT_PAGE

# speed falls and cost grows by these factors from model to model; methods differ by one factor each
_FACTORS = {"g1-gn-native": 1.0, "g16-gn-native": 3.0, "g16-gn-half": 5.0,
            "g16-lnpn-native": 2.0, "g16-lnpn-half": 4.0}  # fmt: skip


def _results(models: int = 6) -> Dict[Job, Any]:
    """Invented results of the first models of each method, in training and inference."""
    results: Dict[Job, Any] = {}
    for job in FRONT_PAGE.jobs("all"):
        for place, model in enumerate(paper.MODELS[:models]):
            for method, factor in _FACTORS.items():
                if f'"{model}-{method}' in job.arguments:
                    results[job] = {
                        "images_per_s": 32000.0 * factor / 2**place,
                        "macs_per_sample": 10**8 * 2**place,
                        "fits": True,
                    }
    return results


def test_test_sizes_share_the_training_sizes_remainder_by_32() -> None:
    assert fronts.test_sizes(160, 224) == {
        "training": 160, "native": 224, "double": 320, "largest": 672,
    }  # fmt: skip
    for model in paper.MODELS:
        half, native = (
            int(paper.authors_row(f"{model}-{method}")["resolution"])
            for method in ("g16-lnpn-half", "g1-gn-native")
        )
        sizes = fronts.test_sizes(half, native)
        assert all((size - half) % 32 == 0 for size in sizes.values())
        assert half < native <= sizes["largest"] and 700 - 32 < sizes["largest"] <= 700
        assert 2 * half - 32 < sizes["double"] <= 2 * half


def test_a_row_of_inference_is_the_authors_network_and_not_their_training() -> None:
    row = fronts.inference_row("b5-g16-lnpn-half", 680)
    assert row["mode"] == "inference" and row["resolution"] == "680" and row["ipus"] == "1"
    assert row["norm"] == "LN+PN" and row["group_size"] == "16" and row["sdk"] == "2.0"
    assert not {"pipeline_splits", "recompute", "grad_accum"} & set(row)


def test_there_are_no_more_simulations_than_needed() -> None:
    jobs = set(FRONT_PAGE.jobs("all"))
    inference = [job for job in jobs if '"inference"' in job.arguments]
    assert len(jobs) - len(inference) == 30
    assert len(inference) == 30 and len(inference) <= 36


def test_published_best_cases_stand_beside_the_simulated_ones() -> None:
    chapter = FRONT_PAGE.chapter(_results())
    assert {trend.published for trend in chapter.trends} == {7.0, 3.0}
    rows: List[Any] = next(t for t in chapter.tables if t.key == "headlines").rows  # type: ignore[assignment]
    # the three of training, and inference under four assumptions
    assert [row["published"] for row in rows] == [7.0, 3.0, None, 3.6, 3.6, 3.6, 3.6]
    named = {each.name: each.value for each in chapter.quantities}
    assert {trend.simulated for trend in chapter.trends} == {
        named["front_page/training-all/ratio"],
        named["front_page/training-groups/ratio"],
    }


def test_a_ratio_is_that_of_interpolated_speed_to_the_references_own() -> None:
    chapter = FRONT_PAGE.chapter(_results())
    table = next(t for t in chapter.tables if t.key == "ratios")
    row = next(each for each in table.rows
               if each["model"] == "B4" and each["pair"] == fronts.PAIRS[0].title)  # fmt: skip
    accuracy = paper.fine_tuned_accuracy()
    below, above = (accuracy[f"{each}-g16-lnpn-half"] for each in ("b3", "b4"))
    share = (paper.baseline_accuracy()["b4"] - below) / (above - below)
    assert 0 < share < 1
    # speed halves from model to model, so the ratio is 4 times what half a step is worth
    assert row["ratio"] == pytest.approx(4.0 * 2 ** (1 - share))
    assert row["macs"] == pytest.approx(2 ** (1 - share))
    assert row["bound"] is False


def test_curves_with_a_model_missing_give_no_ratio_and_the_rest_is_shown() -> None:
    chapter = FRONT_PAGE.chapter(_results(models=5))
    assert not chapter.trends and not chapter.quantities
    assert {table.key for table in chapter.tables} == {"models", "inference"}
    assert len(next(t for t in chapter.tables if t.key == "models").rows) == 30


def test_smaller_ratios_than_published_are_said_to_be_and_what_they_would_take() -> None:
    def lead(factor: float) -> str:
        changed = {
            job: {**each, "images_per_s": (factor if "g16" in job.arguments else 1)
                  * each["images_per_s"]}
            for job, each in _results().items()
        }  # fmt: skip
        return FRONT_PAGE.chapter(changed).lead

    assert "Ours are smaller" in lead(0.1) and "None of them reaches 3.6" in lead(0.1)
    assert "Ours are smaller" not in lead(10) and "3.6 lies among them" in lead(10)


def test_the_lead_calls_the_test_size_an_assumption() -> None:
    lead = FRONT_PAGE.chapter(_results()).lead
    assert "**an assumption**" in lead and "3.6 times was published" in lead


@pytest.mark.parametrize("models", [1, 6])
def test_pictures_can_be_drawn_in_both_themes(models: int) -> None:
    for picture in FRONT_PAGE.chapter(_results(models)).pictures:
        for theme in (LIGHT, DARK):
            drawing = svg(picture.draw(theme))
            assert "published" in drawing
