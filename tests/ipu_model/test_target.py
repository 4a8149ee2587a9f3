"""Targets made of system descriptions."""

from dataclasses import replace

import pytest

from app.config import find_system
from app.config.hardware import Chip, System
from app.errors import ConfigError
from app.ipu_model.calibration import calibration
from app.ipu_model.cost.target_view import PlannerTarget
from app.ipu_model.target import REFERENCE_SYSTEMS, Target


@pytest.mark.parametrize(
    ("name", "planner", "region0"),
    [
        ("C2", PlannerTarget(1216, 262144, 1.6e9, 8, 8, 8), 131072),
        ("IPU-POD16", PlannerTarget(1472, 638976, 1.325e9, 16, 8, 16), 212992),
        ("Bow Pod64", PlannerTarget(1472, 638976, 1.85e9, 16, 8, 16), 212992),
        ("C600", PlannerTarget(1472, 638976, 1.5e9, 16, 8, 16), 212992),
    ],
)
def test_a_shipped_system_is_the_chip_that_it_names(
    name: str, planner: PlannerTarget, region0: int
) -> None:
    target = Target.of(find_system(name))
    assert (target.name, target.planner, target.region0_tile_bytes) == (name, planner, region0)
    assert target.clock_hz == planner.clock_hz
    assert target.tile_memory_bytes == planner.tile_memory_bytes


def tera_units(name: str) -> float:
    """10^12 multiply-adds per second of one per cycle and tile, counted as two operations."""
    planner = Target.of(find_system(name)).planner
    return 2 * planner.tiles * planner.clock_hz / 1e12


@pytest.mark.parametrize(
    ("name", "tera_flops"), [("C2", 124.5), ("IPU-M2000", 250), ("Bow-2000", 350), ("C600", 280)]
)
def test_units_and_clock_make_the_published_half_peak(name: str, tera_flops: float) -> None:
    units = Target.of(find_system(name)).planner.amp_units_half_half
    assert 4 * units * tera_units(name) == pytest.approx(tera_flops, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tera_flops"), [("C2", 31.1), ("IPU-M2000", 62.5), ("Bow-2000", 22.31e3 / 256)]
)
def test_units_and_clock_make_the_published_float_peak(name: str, tera_flops: float) -> None:
    units = Target.of(find_system(name)).planner.amp_units_float_float
    assert units * tera_units(name) == pytest.approx(tera_flops, rel=0.01)


@pytest.mark.parametrize(
    ("name", "calibrated_as"),
    [("C2", "mk1"), ("IPU-M2000", "mk2"), ("Bow-2000", "mk2"), ("C600", "mk2")],
)
def test_bow_shares_the_calibration_of_mk2(name: str, calibrated_as: str) -> None:
    target = Target.of(find_system(name))
    assert target.calibration_name == calibrated_as
    assert calibration(target.chip) == calibration(calibrated_as)


@pytest.mark.parametrize("chip", sorted(REFERENCE_SYSTEMS))
def test_a_short_description_takes_the_rest_from_its_generation(chip: str) -> None:
    reference = find_system(REFERENCE_SYSTEMS[chip])
    whole = reference.chip
    short = Chip(whole.name, 100, whole.tile_memory_bytes, 2e9, "a test")
    target = Target.of(System("Desk", 2, short))
    planner = Target.of(reference).planner
    assert target.planner == replace(planner, tiles=100, clock_hz=2e9)
    assert target.links == reference.links
    assert (target.name, target.ipus, target.chip) == ("Desk", 2, chip)


def test_a_short_description_has_no_more_ipus_than_its_generation_joins() -> None:
    system = System("Hall", 32, Chip("mk1", 1216, 262144, 1.6e9, "a test"))
    with pytest.raises(
        ConfigError, match=r"^system Hall: 'links.gateway' is needed: links join 16"
    ):
        Target.of(system)


def test_io_tiles_do_not_compute() -> None:
    target = Target.of(find_system("IPU-M2000"))
    assert target.without_io_tiles(0) == target.planner
    assert target.without_io_tiles(32) == replace(target.planner, tiles=1440)
    with pytest.raises(ValueError, match="tiles must be at least 1"):
        target.without_io_tiles(1472)
