"""What the SDK finds, held against the run's system."""

from typing import Optional
from unittest import mock

import pytest

from app.config import find_system
from app.errors import ConfigError
from app.training import machine
from app.training.machine import check_machine, ipu_version
from tests.training.tiny_run import tiny_run

TWO_STAGES_TWO_REPLICAS = "batching.replicas=2"  # of an IPU-M2000: 4 Mk2 IPUs


def check(
    version: int,
    ipus: int,
    instances: int = 1,
    system: Optional[str] = None,
    settings: str = TWO_STAGES_TWO_REPLICAS,
) -> None:
    overrides = [settings] + ([f"system={system}"] if system else [])
    with mock.patch.object(machine, "poptorch") as sdk:
        sdk.ipuHardwareIsAvailable.side_effect = lambda wanted: wanted <= ipus
        sdk.ipuHardwareVersion.return_value = version
        check_machine(tiny_run(*overrides), instances)


def test_the_machine_of_the_file_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    check(version=2, ipus=4)
    check(version=2, ipus=64)
    check(version=21, ipus=4, system="bow-2000")
    check(version=-1, ipus=4)  # what PopTorch says where it does not know
    check(version=2, ipus=2, instances=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("version", "ipus", "said"),
    [
        (2, 0, "system: IPU-M2000 has 4 IPUs, the SDK finds none; attach"),
        (21, 4, "system: IPU-M2000 has Mk2 IPUs, the SDK finds Bow ones; give the system"),
        (1, 4, "the SDK finds Mk1 ones"),
        (2, 2, "system: the run takes 4 IPUs (2 stages x 2 replicas here), the SDK finds no"),
    ],
)
def test_another_machine_is_refused(version: int, ipus: int, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(version, ipus)
    assert said in str(refused.value)


def test_a_run_that_is_going_to_be_planned_needs_the_whole_system() -> None:
    check(version=2, ipus=16, system="ipu-pod16", settings="plan=auto")
    with pytest.raises(ConfigError, match="IPU-POD16 has 16 IPUs, for all of which `plan: auto`"):
        check(version=2, ipus=4, system="ipu-pod16", settings="plan=auto")


def test_a_part_of_the_system_that_holds_the_run_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(version=2, ipus=4, system="ipu-pod16")
    assert capsys.readouterr().err == (
        "system: IPU-POD16 has 16 IPUs, the SDK finds fewer; the run takes 4 and goes on\n"
    )


def test_graphcores_own_model_is_no_machine() -> None:
    with mock.patch.object(machine, "poptorch") as sdk:
        sdk.ipuHardwareIsAvailable.return_value = True
        sdk.ipuHardwareVersion.side_effect = AssertionError("POPTORCH_IPU_MODEL=1")
        with pytest.raises(ConfigError, match="unset POPTORCH_IPU_MODEL"):
            check_machine(tiny_run())


@pytest.mark.parametrize(
    ("system", "version"), [("c2", 1), ("ipu-pod64", 2), ("bow-pod16", 21), ("c600", 21)]
)
def test_every_generation_has_poptorchs_number(system: str, version: int) -> None:
    assert ipu_version(find_system(system).chip) == version
