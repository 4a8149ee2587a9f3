"""Two processes that train one model, against one process with all the replicas."""

import multiprocessing
import os
import signal
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import app.ipu_model.popdist.poptorch  # noqa: F401  the submodule is not imported with popdist
from app.ipu_model import popdist, poptorch
from app.ipu_model.poptorch._device.fabric import ADDRESS, all_reduce_of
from app.ipu_model.poptorch.enums import MeanReductionStrategy, OutputMode, ReductionType

INSTANCES = 2
BATCH = 2  # samples of a micro-batch
CALLS = 2
# a process that has imported what training needs, and forks for each instance
FROM_SERVER = multiprocessing.get_context("forkserver")
FROM_SERVER.set_forkserver_preload(["torch._dynamo", __name__])
BOUND_S = 60  # of a test whose processes hang
SCALE_FACTOR = "lossScaleUpdateFactor"
SHORT = timedelta(milliseconds=500)


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        network: name of a function of this module.
        optimizer: of ``poptorch.optim``, with its arguments.
        style: the launcher whose environment variables say which instance this is.
        replicas: of each instance.
        outliers: factor of the targets that the last instance sees.
    """

    optimizer: Tuple[str, Dict[str, Any]] = ("SGD", {"lr": 0.5, "momentum": 0.5})
    iterations: int = 1
    accumulation: int = 2
    replicas: int = 1
    kind: ReductionType = ReductionType.Mean
    strategy: MeanReductionStrategy = MeanReductionStrategy.Post
    network: str = "linear"
    style: str = "poprun"
    automatic_loss_scaling: bool = False
    outliers: float = 1.0

    @property
    def steps(self) -> int:
        return self.iterations * self.accumulation

    def set(self, options: poptorch.Options) -> poptorch.Options:
        training = options.deviceIterations(self.iterations).randomSeed(5).Training
        training.gradientAccumulation(self.accumulation)
        training.accumulationAndReplicationReductionType(self.kind)
        training.setMeanAccumulationAndReplicationReductionStrategy(self.strategy)
        training.setAutomaticLossScaling(self.automatic_loss_scaling)
        return options.outputMode(OutputMode.All)


class WithLoss(nn.Module):
    """Returns the loss, and what dropout left of the output."""

    def __init__(self, network: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.dropout = dropout

    def forward(self, x: Tensor, target: Tensor) -> Tuple[Tensor, Tensor]:
        y = F.dropout(self.network(x), self.dropout, self.training).flatten(1)
        return F.mse_loss(y.float(), target.float()), y


def linear() -> WithLoss:
    return WithLoss(nn.Linear(8, 4))


def dropped() -> WithLoss:
    return WithLoss(nn.Linear(8, 4), dropout=0.5)


def half() -> WithLoss:
    return WithLoss(nn.Linear(8, 4).half())


def images() -> WithLoss:
    layers = [
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 3, 2),
        nn.GroupNorm(1, 3),
        nn.Conv2d(3, 4, 1),
    ]
    return WithLoss(nn.Sequential(*layers))


def unused() -> WithLoss:
    network = nn.Linear(8, 4)
    network.register_parameter("idle", nn.Parameter(torch.ones(3)))
    return WithLoss(network)


def dataset_of(case: Case) -> TensorDataset:
    """What all instances consume in all calls."""
    generator = torch.Generator().manual_seed(11)
    samples = CALLS * case.steps * INSTANCES * case.replicas * BATCH
    x, y = (
        torch.randn(samples, 8, generator=generator),
        torch.randn(samples, 4, generator=generator),
    )
    y[samples // INSTANCES :] *= case.outliers
    return TensorDataset(x.half(), y.half()) if case.network == "half" else TensorDataset(x, y)


def executor_of(case: Case, options: poptorch.Options) -> poptorch.PoplarExecutor:
    torch.manual_seed(3)
    model = globals()[case.network]()
    name, arguments = case.optimizer
    optimizer = getattr(poptorch.optim, name)(model.parameters(), **arguments)
    return poptorch.trainingModel(model, options, optimizer)


def found_by(executor: poptorch.PoplarExecutor, outputs: List[Any]) -> Dict[str, Tensor]:
    """Weights, what automatic loss scaling has come to, and the outputs of all calls."""
    optimizer = executor._update.optimizer  # type: ignore[union-attr]
    state: Dict[str, Tensor] = optimizer.state_dict()["ipu_state"]
    return {
        **{name: value.clone() for name, value in executor.model.state_dict().items()},
        **{name: value.clone() for name, value in state.items() if name == SCALE_FACTOR},
        "losses": torch.cat([losses.flatten() for losses, _ in outputs]),
        "outputs": torch.cat([values for _, values in outputs]),
    }


def options_of(case: Case) -> poptorch.Options:
    """Those of this instance, as programs make them."""
    if case.style == "poprun":
        return case.set(popdist.poptorch.Options())
    return case.set(poptorch.Options().replicationFactor(case.replicas))


def train(case: Case) -> Dict[str, Tensor]:
    options = options_of(case)
    executor = executor_of(case, options)
    loader = poptorch.DataLoader(options, dataset_of(case), batch_size=BATCH)
    return found_by(executor, [executor(x, y) for x, y in loader])


def train_alone(case: Case) -> Dict[str, Tensor]:
    """One process, with the replicas of all, on the micro-batches that each of them would get."""
    options = case.set(poptorch.Options()).replicationFactor(INSTANCES * case.replicas)
    options.Distributed.disable()
    executor = executor_of(case, options)

    def calls(tensor: Tensor) -> Tensor:  # the loader gives each instance one contiguous block
        blocks = tensor.view(INSTANCES, CALLS, case.steps, case.replicas * BATCH, -1)
        return blocks.permute(1, 2, 0, 3, 4).reshape(CALLS, -1, tensor.shape[1])

    xs, ys = map(calls, dataset_of(case).tensors)
    return found_by(executor, [executor(x, y) for x, y in zip(xs, ys)])


def interleaved(case: Case, of_instances: List[Tensor]) -> Tensor:
    """The instances' outputs, in the order in which one process returns them."""
    parts = [t.view(CALLS * case.steps, case.replicas, -1) for t in of_instances]
    return torch.stack(parts, dim=1).reshape(-1)


# ---- processes


def environment(style: str, index: int, replicas: int) -> Dict[str, str]:
    ranks = {"OMPI_COMM_WORLD_SIZE": str(INSTANCES), "OMPI_COMM_WORLD_RANK": str(index)}
    if style == "mpirun":
        return ranks
    return {
        **ranks,
        "POPDIST_NUM_TOTAL_REPLICAS": str(INSTANCES * replicas),
        "POPDIST_NUM_LOCAL_REPLICAS": str(replicas),
        "POPDIST_NUM_IPUS_PER_REPLICA": "1",
        "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": "1",
        "POPDIST_REPLICA_INDEX_OFFSET": str(index * replicas),
        "POPDIST_LOCAL_INSTANCE_INDEX": str(index),
    }


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def instance(
    task: Callable[[Case], Any], case: Case, index: int, address: str, folder: Path
) -> None:
    """The whole life of one instance."""
    output = os.open(folder / f"output{index}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in list(os.environ):
        if name.startswith(("POPDIST_", "POPTORCH_", "OMPI_")):
            del os.environ[name]
    os.environ.update(environment(case.style, index, case.replicas))
    os.environ[ADDRESS] = address
    torch.set_num_threads(1)
    torch.save(task(case), folder / f"{index}.pt")


def run(
    task: Callable[[Case], Any], case: Case, folder: Path, codes: Tuple[Optional[int], ...] = (0, 0)
) -> List[Any]:
    """Run a task in all instances.

    Args:
        codes: with which they end; None: not by itself.

    Returns:
        What the task returned, by instance, where it was to end well.
    """
    address = free_address()
    processes = [
        FROM_SERVER.Process(target=instance, args=(task, case, index, address, folder))
        for index in range(INSTANCES)
    ]
    for process in processes:
        process.start()
    for process, code in zip(processes, codes):
        if code is not None:
            process.join(timeout=BOUND_S)
    found = tuple(process.exitcode for process in processes)
    for process in processes:
        process.kill()
    assert found == codes, "".join(
        (folder / f"output{index}").read_text(encoding="utf-8") for index in range(INSTANCES)
    )
    return [
        torch.load(folder / f"{index}.pt", weights_only=False)
        for index in range(INSTANCES)
        if codes[index] == 0
    ]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment("poprun", 0, 1), ADDRESS):
        monkeypatch.delenv(name, raising=False)


# ---- training

RUNNING = MeanReductionStrategy.Running
HALF_SGD = ("SGD", {"lr": 0.5, "momentum": 0.5, "accum_type": torch.float16})
CASES = [
    pytest.param(Case(iterations=2, accumulation=3, replicas=2), id="mean-post"),
    pytest.param(Case(strategy=RUNNING, replicas=2), id="mean-running"),
    pytest.param(Case(kind=ReductionType.Sum, replicas=2), id="sum"),
    pytest.param(Case(accumulation=1, style="mpirun"), id="no-accumulation"),
    pytest.param(Case(iterations=2, style="mpirun", replicas=2), id="plain-options"),
    pytest.param(Case(network="dropped", iterations=2, replicas=2), id="dropout"),
    pytest.param(Case(network="images"), id="images"),
    pytest.param(Case(network="unused"), id="weight-without-gradient"),
    pytest.param(Case(("Adam", {"lr": 0.125, "max_grad_norm": 0.25})), id="clipped-adam"),
    pytest.param(Case(("SGD", {**HALF_SGD[1], "use_combined_accum": True})), id="combined"),
    pytest.param(
        Case(("SGD", {**HALF_SGD[1], "use_combined_accum": True}), accumulation=1), id="combined-1"
    ),
    pytest.param(Case(HALF_SGD, network="half", replicas=2), id="half-running"),
    pytest.param(Case(network="half", kind=ReductionType.Sum), id="half-sum"),
]


@pytest.mark.parametrize("case", CASES)
def test_two_instances_train_as_one_process_with_all_replicas(case: Case, tmp_path: Path) -> None:
    first, second = run(train, case, tmp_path)
    expected = train_alone(case)
    trained = list(globals()[case.network]().state_dict())
    for name in trained:
        assert torch.equal(first[name], second[name])  # to the last bit, or they drift apart
        if case.network == "half":  # gradients of half weights are added in float32
            assert torch.equal(first[name], expected[name])
        torch.testing.assert_close(first[name], expected[name], rtol=1e-5, atol=1e-6)
    for name in ("losses", "outputs"):
        torch.testing.assert_close(
            interleaved(case, [first[name], second[name]]),
            expected[name].flatten(),
            rtol=1e-5,
            atol=1e-6,
        )


def test_instances_drop_out_different_numbers(tmp_path: Path) -> None:
    case = Case(network="dropped", accumulation=4)
    first, second = (found["outputs"] == 0 for found in run(train, case, tmp_path))
    masks = {tuple(mask.flatten().tolist()) for mask in (*first.split(BATCH), *second.split(BATCH))}
    assert len(masks) > case.steps * CALLS  # 16 masks of 8 draws; one seed for both gives 8


@pytest.mark.parametrize("outliers, change", [(1.0, 2.0**4), (128.0, 2.0**-4)])
def test_instances_agree_on_the_loss_scaling(
    outliers: float, change: float, tmp_path: Path
) -> None:
    optimizer = ("SGD", {"lr": 2.0**-20, "loss_scaling": 512.0, "accum_type": torch.float16})
    case = Case(
        optimizer, iterations=2, network="half", automatic_loss_scaling=True, outliers=outliers
    )
    first, second = run(train, case, tmp_path)
    expected = train_alone(case)
    # the first instance alone would double in either case
    assert expected[SCALE_FACTOR].item() == change
    for found in (first, second):
        for name in (SCALE_FACTOR, "network.weight", "network.bias"):
            assert torch.equal(found[name], expected[name])


def train_twice(case: Case) -> Dict[str, Tensor]:
    train(case)
    return train(case)


def test_executors_of_one_process_share_its_connection(tmp_path: Path) -> None:
    first, second = run(train_twice, Case(), tmp_path)
    expected = train_alone(Case())
    assert torch.equal(first["network.weight"], second["network.weight"])
    torch.testing.assert_close(first["network.weight"], expected["network.weight"])


def apart(case: Case) -> Dict[str, Tensor]:
    options = poptorch.Options()
    options.Distributed.disable()
    executor = executor_of(case, case.set(options))
    sign = 1.0 - 2.0 * popdist.getInstanceIndex()
    x, y = dataset_of(case)[: case.steps * BATCH]
    return found_by(executor, [executor(x, sign * y)])


def test_disabled_instances_train_apart(tmp_path: Path) -> None:
    first, second = run(apart, Case(), tmp_path)
    assert not torch.equal(first["network.weight"], second["network.weight"])


# ---- popdist


def describe(case: Case) -> Dict[str, Any]:
    popdist.init()
    options = options_of(case)
    return {
        "instance": popdist.getInstanceIndex(),
        "instances": popdist.getNumInstances(),
        "local": popdist.getLocalInstanceIndex(),
        "device": popdist.getDeviceId(),
        "offset": popdist.getReplicaIndexOffset(),
        "replicas": (popdist.getNumLocalReplicas(), popdist.getNumTotalReplicas()),
        "process": (options.Distributed.processId, options.Distributed.numProcesses),
        "ipu": options.toDict()["ipu_id"],
        "first": popdist.execute_on_instances({0}, lambda: "ran"),
        "both": popdist.execute_on_instances({0, 1}, lambda *, tag: tag, tag="tagged"),
    }


def test_each_instance_knows_its_place(tmp_path: Path) -> None:
    for index, found in enumerate(run(describe, Case(replicas=2), tmp_path)):
        assert found == {
            "instance": index,
            "instances": 2,
            "local": index,
            "device": index,
            "offset": 2 * index,
            "replicas": (2, 4),
            "process": (index, 2),
            "ipu": index,
            "first": None if index else "ran",
            "both": "tagged",
        }


# ---- what goes wrong


def distributed(index: int = 0, count: int = INSTANCES) -> poptorch.Options:
    options = poptorch.Options()
    options.Distributed.configureProcessId(index, count)
    return options


def call(executor: poptorch.PoplarExecutor) -> Any:
    return executor(torch.ones(2, 8), torch.ones(2, 4))


@pytest.mark.parametrize("address", [None, "", "somewhere", ":29400", "here:port"])
def test_training_needs_a_meeting_place(address: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is not None:
        monkeypatch.setenv(ADDRESS, address)
    message = (
        r"^'poptorch_py_error': poptorch\.Options\.Distributed: 2 processes train one model, .*"
        r"set IPU_MODEL_FABRIC=HOST:PORT in all of them, or call options\.Distributed\.disable\(\)"
    )
    with pytest.raises(poptorch.Error, match=message):
        call(poptorch.trainingModel(linear(), distributed()))


def test_inference_and_single_processes_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = linear()
    assert call(poptorch.inferenceModel(model, distributed(1)))[1].shape == (2, 4)
    for name, value in environment("mpirun", 1, 1).items():
        monkeypatch.setenv(name, value)
    options = poptorch.Options()
    assert options.Distributed.numProcesses == INSTANCES
    options.Distributed.disable()
    call(poptorch.trainingModel(model, options))


def test_distributed_inference_draws_other_numbers_in_each_process() -> None:
    model = dropped()  # in training mode: dropout is active
    zeros = [
        call(poptorch.inferenceModel(model, distributed(index).randomSeed(5)))[1] == 0
        for index in (0, 1, 0)
    ]
    assert torch.equal(zeros[0], zeros[2])
    assert not torch.equal(zeros[0], zeros[1])


@pytest.mark.parametrize("index, comparison", [(2, "equal to"), (3, "larger than")])
@pytest.mark.parametrize("wrap", [poptorch.trainingModel, poptorch.inferenceModel])
def test_process_must_be_one_of_them(wrap: Any, index: int, comparison: str) -> None:
    options = distributed(index).replicationFactor(2)
    message = f"Global replica offset: {2 * index}, is {comparison} global replication factor: 4"
    with pytest.raises(poptorch.Error) as caught:
        call(wrap(linear(), options))
    assert (caught.value.type, caught.value.message) == ("popart_exception", message)


@pytest.mark.parametrize("index", [0, 1])
def test_absent_instance_is_not_waited_for_for_ever(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = free_address()
    monkeypatch.setenv(ADDRESS, address)
    message = (
        rf"^'poptorch_py_error': {ADDRESS}={address}: process {index} of 2 did not meet the others"
    )
    with pytest.raises(poptorch.Error, match=message):
        all_reduce_of(distributed(index), SHORT)


def stop_or_sum(case: Case) -> str:
    all_reduce = all_reduce_of(options_of(case), timedelta(seconds=3))
    assert all_reduce is not None
    if popdist.getInstanceIndex() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        all_reduce([torch.ones(2)])
    except poptorch.Error as error:
        return str(error)
    return "summed alone"


@pytest.mark.long
def test_silent_instance_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (found,) = run(stop_or_sum, Case(), tmp_path, codes=(0, None))
    assert found.startswith("'poplar_link_error': The sum over instances failed (")


def die_or_train(case: Case) -> str:
    executor = executor_of(case, options_of(case))
    x, y = dataset_of(case)[: case.steps * BATCH]
    executor(x, y)
    if popdist.getInstanceIndex() == 1:
        os._exit(3)
    try:
        executor(x, y)
    except poptorch.Error as error:
        return str(error)
    return "trained alone"


def test_instance_that_dies_stops_the_other(tmp_path: Path) -> None:
    (found,) = run(die_or_train, Case(), tmp_path, codes=(0, 3))
    assert found.startswith("'poplar_link_error': The sum over instances failed (")
    assert found.endswith("has one of them stopped?")
