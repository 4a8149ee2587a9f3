"""The object that `simulate --json` prints."""

import json
from dataclasses import replace

from app.ipu_model.report.as_json import simulation_dict
from tests.ipu_model.report.fixture import efficientnet, misfitting, tiny

KEYS = {
    *("config", "system", "mode", "fits", "throughput_samples_per_s", "step_time_s"),
    *("global_batch_size", "ipus", "replicas", "stages", "tile_memory_bytes", "peak_tile_bytes"),
    *("per_ipu", "model", "misfit", "calibration"),
}
IPU_WHOLE = {
    *("ipu", "stage", "cycles_per_micro_batch", "compute_cycles", "exchange_cycles"),
    *("sync_cycles", "peak_tile_bytes", "always_live_tile_bytes", "not_always_live_tile_bytes"),
    *("code_tile_bytes", "weights_bytes", "stash_bytes"),
}


def test_every_promised_key_is_there_and_survives_json() -> None:
    for simulation in (efficientnet(), misfitting(), tiny()):
        made = simulation_dict(simulation)
        assert set(made) >= KEYS
        assert json.loads(json.dumps(made, allow_nan=False)) == made
        assert made["model"] == {
            "parameters": simulation.parameters,
            "macs_per_sample": simulation.macs_per_sample,
        }
        assert made["calibration"] == {"name": "mk2", "sdk": "3.3.0"}
        assert made["figures"] == "simulated"


def test_cycles_and_bytes_are_whole_numbers() -> None:
    for row in simulation_dict(efficientnet())["per_ipu"]:
        assert set(row) >= IPU_WHOLE
        assert all(type(row[key]) is int for key in IPU_WHOLE)
        parts = row["compute_cycles"] + row["exchange_cycles"] + row["sync_cycles"]
        assert abs(row["cycles_per_micro_batch"] - parts) <= 2


def test_a_misfit_carries_terms_and_levers() -> None:
    simulation = misfitting()
    assert simulation.misfit is not None
    made = simulation_dict(simulation)
    assert made["fits"] is False
    assert (
        sum(term["tile_bytes"] for term in made["misfit"]["terms"])
        == simulation.misfit.demand_bytes
    )
    assert made["misfit"]["levers"][1] == {
        "change": "batching.micro_batch 2 -> 1",
        "saved_tile_bytes": 139264,
        "fits": True,
    }
    assert simulation_dict(efficientnet())["misfit"] is None


def test_update_share_is_that_of_the_step() -> None:
    timeline = efficientnet().timeline
    made = simulation_dict(efficientnet())
    assert made["update_fraction"] == timeline.update_cycles / timeline.cycles
    assert made["bubble_fraction"] == timeline.bubble_fraction


def test_a_figure_that_is_not_finite_is_null() -> None:
    made = simulation_dict(replace(tiny(), throughput_samples_per_s=float("inf")))
    assert made["throughput_samples_per_s"] is None
