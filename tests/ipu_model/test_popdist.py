"""PopDist: what PopRun's environment says, and the options that follow from it."""

import copy
import subprocess
import sys
from typing import Any, List

import pytest
import torch

import app.ipu_model.popdist.poptorch  # noqa: F401  the submodule is not imported with popdist
from app.ipu_model import popdist, poptorch
from app.ipu_model.poptorch.enums import OutputMode

ENVIRONMENT = {  # the second of two instances, of four replicas on two IPUs each
    "POPDIST_NUM_TOTAL_REPLICAS": "8",
    "POPDIST_NUM_LOCAL_REPLICAS": "4",
    "POPDIST_NUM_IPUS_PER_REPLICA": "2",
    "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": "1",
    "POPDIST_REPLICA_INDEX_OFFSET": "4",
    "POPDIST_LOCAL_INSTANCE_INDEX": "1",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _poprun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_without_poprun_there_is_one_instance_with_one_replica_on_one_ipu() -> None:
    popdist.init()
    assert not popdist.isPopdistEnvSet()
    assert popdist.getNumTotalReplicas() == popdist.getNumLocalReplicas() == 1
    assert popdist.getNumInstances() == popdist.getNumIpusPerReplica() == 1
    assert popdist.getInstanceIndex() == popdist.getLocalInstanceIndex() == 0
    assert popdist.getReplicaIndexOffset() == popdist.getDeviceId() == popdist.getDeviceId(4) == 0
    assert popdist.checkNumIpusPerReplica(4)


@pytest.mark.usefixtures("_poprun")
def test_sizes_and_indices_are_those_of_the_environment() -> None:
    popdist.init()
    assert popdist.isPopdistEnvSet()
    assert popdist.getNumTotalReplicas() == 8
    assert popdist.getNumLocalReplicas() == 4
    assert popdist.getNumInstances() == 2
    assert popdist.getNumIpusPerReplica() == 2
    assert popdist.getInstanceIndex() == 1
    assert popdist.getLocalInstanceIndex() == 1
    assert popdist.getReplicaIndexOffset() == 4
    assert popdist.getDeviceId() == popdist.getDeviceId(2) == 1
    assert popdist.checkNumIpusPerReplica(2)
    assert not popdist.checkNumIpusPerReplica(4)


@pytest.mark.parametrize("local", [1, 2, 4])
def test_instances_partition_the_replicas(monkeypatch: pytest.MonkeyPatch, local: int) -> None:
    total = 8
    seen: List[int] = []
    for offset in range(0, total, local):
        monkeypatch.setenv("POPDIST_NUM_TOTAL_REPLICAS", str(total))
        monkeypatch.setenv("POPDIST_NUM_LOCAL_REPLICAS", str(local))
        monkeypatch.setenv("POPDIST_REPLICA_INDEX_OFFSET", str(offset))
        seen.append(popdist.getInstanceIndex())
        assert popdist.getNumInstances() * local == total
    assert seen == list(range(total // local))


@pytest.mark.parametrize("function", [popdist.getNumInstances, popdist.getInstanceIndex])
def test_instances_of_different_sizes_have_no_number(
    monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    monkeypatch.setenv("POPDIST_UNIFORM_REPLICAS_PER_INSTANCE", "0")
    with pytest.raises(RuntimeError, match=f"^popdist.{function.__name__} needs the same number"):
        function()


@pytest.mark.parametrize("value", ["four", "0", "-1", ""])
def test_malformed_size_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POPDIST_NUM_LOCAL_REPLICAS", value)
    with pytest.raises(RuntimeError, match=r"^POPDIST_NUM_LOCAL_REPLICAS="):
        popdist.getNumLocalReplicas()


@pytest.mark.usefixtures("_poprun")
def test_other_number_of_ipus_per_replica_is_refused() -> None:
    with pytest.raises(RuntimeError, match="needs 4 IPUs per replica"):
        popdist.getDeviceId(4)
    with pytest.raises(RuntimeError, match="needs 1 IPUs per replica and poprun gave 2"):
        popdist.poptorch.Options()


@pytest.mark.usefixtures("_poprun")
def test_function_runs_in_the_instances_named_and_nowhere_else() -> None:
    calls: List[Any] = []

    def save(path: str, *, step: int) -> str:
        calls.append((path, step))
        return path

    assert popdist.execute_on_instances({0}, save, "a", step=1) is None
    assert popdist.execute_on_instances({0, 1}, save, "b", step=2) == "b"
    assert calls == [("b", 2)]


# ---- options


def test_options_without_poprun_are_those_of_one_instance() -> None:
    options = popdist.poptorch.Options(ipus_per_replica=2)
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (0, 1)
    assert options.replication_factor == 1
    assert isinstance(options, poptorch.Options)
    assert str(options).startswith("Options(")


@pytest.mark.usefixtures("_poprun")
def test_options_are_preset_by_poprun() -> None:
    options = popdist.poptorch.Options(2).outputMode(OutputMode.All)
    assert options.replication_factor == 4
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (1, 2)
    values = options.toDict()
    assert (values["ipu_id"], values["distributed_process_id"]) == (1, 1)
    options._check()
    options.checkIsFrozen()
    options._freeze()
    assert options.toDict()["ipu_id"] == 1
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.checkIsFrozen()


@pytest.mark.usefixtures("_poprun")
def test_offline_target_has_no_device() -> None:
    options = popdist.poptorch.Options(2).outputMode(OutputMode.All).useOfflineIpuTarget()
    assert "ipu_id" not in options.toDict()


@pytest.mark.usefixtures("_poprun")
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    "setter, arguments",
    [
        ("useIpuId", (1,)),
        ("replicationFactor", (1,)),
        ("Distributed.disable", ()),
        ("Distributed.setEnvVarNames", ("A", "B")),
        ("Distributed.configureProcessId", (1,)),
    ],
)
def test_what_poprun_decides_cannot_be_set(setter: str, arguments: Any, copied: bool) -> None:
    options: Any = popdist.poptorch.Options(ipus_per_replica=2)
    options = copy.deepcopy(options) if copied else options
    before = repr(options)
    target = options.Distributed if "." in setter else options
    message = rf"^Cannot call `{setter}` with popdist\.poptorch\.Options$"
    with pytest.raises(RuntimeError, match=message):
        getattr(target, setter.split(".")[-1])(*arguments)
    assert repr(options) == before


@pytest.mark.usefixtures("_poprun")
def test_options_of_poprun_can_be_changed_otherwise_and_copied() -> None:
    options = popdist.poptorch.Options(ipus_per_replica=2)
    options.deviceIterations(3).Training.gradientAccumulation(2)
    options._freeze()
    twin = options.clone()
    assert type(twin) is popdist.poptorch.Options
    twin.deviceIterations(4)
    assert (options.device_iterations, twin.device_iterations) == (3, 4)
    assert twin.Distributed.numProcesses == 2


def test_options_wrap_a_model() -> None:
    model = poptorch.inferenceModel(torch.nn.Identity(), popdist.poptorch.Options())
    assert torch.equal(model(torch.ones(2)), torch.ones(2))


def test_popdist_alone_imports_no_torch() -> None:
    program = "import sys, app.ipu_model.popdist; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
