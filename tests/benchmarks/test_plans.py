"""The planner's plans beside the authors' own: tables, and the run files that ship."""

from typing import Optional

import pytest

from app.config import load_run
from benchmarks import plans
from benchmarks.plans import Comparison, Layout, tables

HAND = Layout(2, 8, 12, 8, 1000.0, 0.25)


def planned(throughput: float) -> Layout:
    return Layout(4, 4, 24, 8, throughput, 0.0512)


def test_ratio_is_planned_over_hand_made() -> None:
    assert Comparison("a", HAND, planned(1250.0)).ratio == pytest.approx(1.25)
    assert Comparison("a", None, planned(1250.0)).ratio is None
    assert Comparison("a", HAND, None).ratio is None


def test_tables_show_both_sides_and_the_geometric_mean() -> None:
    compared = [Comparison("a", HAND, planned(2000.0)), Comparison("b", HAND, planned(1000.0))]
    text = tables(compared, [Comparison("c", None, planned(50.0)), Comparison("d", None, None)])
    assert "| a | 2 × 8, 12 × 8 | 1000 | 25.0 % | 4 × 4, 24 × 8 | 2000 | 5.1 % | 2.00 |" in text
    assert "Geometric mean of the ratio 1.41, least 1.00, of 2 configurations" in text
    assert "| c | 4 × 4, 24 × 8 | 50 | 5.1 % |" in text
    assert "| d | no plan fits | – | – |" in text
    assert text.count("*simulated*") == 2


@pytest.mark.parametrize("only, count", [("", 30), ("b5", 5), ("lnpn-half", 6), ("none", 0)])
def test_the_papers_configurations_are_chosen_by_name(only: str, count: Optional[int]) -> None:
    assert len(plans.paper_runs(only)) == count


@pytest.mark.parametrize("name", plans.OTHERS)
def test_other_networks_are_valid_runs(name: str) -> None:
    run = load_run(plans.PAPER / "base.yml", plans.OTHERS[name])
    assert run.batching.global_batch == 768


@pytest.mark.parametrize("name", plans.paper_runs())
def test_a_planned_file_ships_for_every_configuration(name: str) -> None:
    source = load_run(plans.PAPER / f"{name}.yml")
    run = load_run(plans.PLANNED / f"{name}.yml")
    assert (run.model, run.data, run.system) == (source.model, source.data, source.system)
    assert (run.precision, run.optimizer) == (source.precision, source.optimizer)
    assert run.batching.global_batch == source.batching.global_batch == 768
    assert run.batching.replicas * run.pipeline.stages <= 16
    assert run.plan == "given"
