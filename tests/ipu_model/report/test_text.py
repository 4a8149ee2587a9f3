"""What a terminal shows."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from app.ipu_model.memory import Term
from app.ipu_model.report import text
from app.ipu_model.simulation import Simulation
from tests.ipu_model.report.fixture import efficientnet, misfitting, tiny
from tests.ipu_model.report.odd import simulations

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("make", [efficientnet, misfitting, tiny])
def test_the_summary_is_unchanged(make: Callable[[], Simulation]) -> None:
    golden = GOLDEN / f"{make.__name__}.txt"
    assert text.summary(make()) == golden.read_text(encoding="utf-8")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(simulations())
def test_any_simulation_has_a_summary_of_at_most_100_columns(simulation: Simulation) -> None:
    lines = text.summary(simulation).splitlines()
    assert max(map(len, lines)) <= 100
    assert "simulated" in text.summary(simulation)


def test_a_misfit_without_levers_says_so() -> None:
    found = misfitting()
    assert found.misfit is not None
    summary = text.summary(replace(found, misfit=replace(found.misfit, levers=())))
    assert "does not fit: IPU 3" in summary
    assert "no single change" in summary


def test_code_that_is_too_large_is_explained_by_its_own_terms() -> None:
    found = misfitting()
    assert found.misfit is not None
    code = (Term("code of blocks", 300 * 1024, True),)
    misfit = replace(found.misfit, terms=code, resource="executable memory")
    summary = text.summary(replace(found, misfit=misfit))
    assert "KiB executable memory (" in summary
    assert re.search(r"^  code of blocks +300 KiB", summary, re.MULTILINE)
    assert "code of blocks" not in text.summary(found)


def test_levers_are_sentences() -> None:
    summary = text.summary(misfitting())
    assert "try: recompute blocks.6: saves 60 KiB, not enough alone" in summary
    assert "try: batching.micro_batch 2 -> 1: saves 136 KiB, then it fits" in summary


def test_a_long_name_keeps_the_table_aligned() -> None:
    simulation = efficientnet()
    long = replace(simulation.ops[0], scope="blocks." + "very_long_name." * 9 + "conv")
    lines = text.summary(replace(simulation, ops=(long, *simulation.ops[1:]))).splitlines()
    assert max(map(len, lines)) <= 100
