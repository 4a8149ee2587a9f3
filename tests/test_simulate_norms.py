"""Every kind of norm goes through the whole simulation, at costs that stand to reason."""

from collections import Counter
from functools import lru_cache

import pytest

from app.ipu_model.simulation import Simulation
from app.simulate import simulate_run
from tests.training.tiny_run import tiny_run

KINDS = ("online", "frn", "evonorm-s0", "weight")


@lru_cache(maxsize=None)
def simulated(kind: str, standardised: bool = False) -> Simulation:
    given = [f"model.norm.kind={kind}", "model.norm.proxy=false"]
    given += ["model.norm.groups=1"]
    given += [f"model.norm.weight_standardisation={str(standardised).lower()}"]
    return simulate_run(tiny_run(*given))


def counts(simulation: Simulation) -> "Counter[str]":
    """Of every kind of operation; those that run again for the backward pass count once."""
    return Counter(op.kind for op in simulation.ops if op.phase != "recompute")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_costs_about_what_a_group_norm_does(kind: str) -> None:
    reference, found = simulated("group"), simulated(kind)
    assert counts(found)["unknown"] == 0
    assert counts(found)["conv"] == counts(reference)["conv"]
    assert counts(found)["group_norm"] == 0 < counts(reference)["group_norm"]
    assert 0.5 < found.step_time_s / reference.step_time_s < 2


def test_online_norm_is_one_operation_and_another_for_its_gradient() -> None:
    online, group = counts(simulated("online")), counts(simulated("group"))
    for suffix in ("", "_grad"):
        assert online[f"online_norm{suffix}"] == group[f"group_norm{suffix}"] > 0


def test_standardised_weights_add_a_norm_of_every_filter_bank() -> None:
    plain, standardised = simulated("group"), simulated("group", standardised=True)
    norms = counts(standardised)["layer_norm"]
    assert norms == counts(plain)["group_norm"]  # one convolution before each
    assert standardised.step_time_s > plain.step_time_s
