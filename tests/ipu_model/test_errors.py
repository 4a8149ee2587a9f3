"""What is raised and logged when a program is wrong: exception class, ``.type`` and message.

By the time at which it happens. The tests of each part look at its own cases more closely.
"""

from typing import Any, Callable, List, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import identity_loss
from app.ipu_model.poptorch.enums import ConnectionType, OutputMode, ReductionType

PYTHON, GRAPH, BACKEND = "poptorch_py_error", "poptorch_cpp_error", "popart_exception"
X = torch.arange(12.0).reshape(4, 3)
Forward = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """A weight, a buffer, a norm, and any ``forward``."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("kept", torch.zeros(3))
        self.norm = nn.BatchNorm1d(3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def loss(net: Net, x: Tensor) -> Tensor:
    return identity_loss(net.weight * x, "mean")


def model() -> Net:
    return Net(loss)


def options_with(**setters: Any) -> poptorch.Options:
    options = poptorch.Options()
    for setter, value in setters.items():
        getattr(options, setter)(value)
    return options


def popart(name: str, value: Any) -> poptorch.Options:
    options = poptorch.Options()
    options._Popart.set(name, value)
    return options


def refusal(action: Callable[[], Any]) -> Tuple[str, str]:
    """Type and message of the ``poptorch.Error`` that an action raises."""
    with pytest.raises(poptorch.Error) as caught:
        action()
    return caught.value.type, caught.value.message


# ---- the exceptions themselves


@pytest.mark.parametrize("kind", [poptorch.RecoverableError, poptorch.UnrecoverableError])
def test_faults_of_the_device_are_caught_as_errors(kind: Any) -> None:
    with pytest.raises(poptorch.Error) as caught:
        raise kind("link down", type="poplar_link_error", location="a.cpp:1")
    assert str(caught.value) == "In a.cpp:1: 'poplar_link_error': link down"
    assert caught.value.message == "link down"


def test_recoverable_faults_name_their_remedy() -> None:
    assert poptorch.RecoverableError("x", recovery_action="FULL_RESET").recovery_action == (
        "FULL_RESET"
    )


# ---- building an executor


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_amsgrad_is_a_value_error_when_built_and_when_set(kind: Any) -> None:
    net = model()
    bad = kind(net.parameters(), amsgrad=True)
    message = r"^Only non-amsgrad Adam/AdamW optimizers are supported\.$"
    with pytest.raises(ValueError, match=message):
        poptorch.trainingModel(net, None, bad)
    executor = poptorch.trainingModel(net, None, kind(net.parameters()))
    with pytest.raises(ValueError, match=message):
        executor.setOptimizer(bad)


def test_unsupported_optimizer_is_an_assertion() -> None:
    net = model()
    with pytest.raises(AssertionError, match=r"^Unsupported optimizer type\. Types supported \["):
        poptorch.trainingModel(net, None, torch.optim.Adagrad(net.parameters()))


# ---- options


@pytest.mark.parametrize(
    "setting, expected, message",
    [
        (lambda o: o.Precision.setPartialsType(torch.int8), ValueError, "setPartialsType should"),
        (
            lambda o: o.Training.accumulationAndReplicationReductionType(ReductionType.NoReduction),
            ValueError,
            "accumulationAndReplicationReductionType must be set to",
        ),
        (lambda o: o.inputReplicaGrouping(2, poptorch.CommGroupType.All), ValueError, "All"),
        (lambda o: o.inputReplicaGrouping(2, poptorch.CommGroupType.Consecutive), ValueError, "2"),
        (lambda o: o.Jit.traceModel(True), ValueError, "traceModel"),
        (lambda o: o.outputMode(OutputMode.EveryN), AssertionError, "output_return_period"),
        (lambda o: o.outputMode("all"), AssertionError, "OutputMode"),
        (lambda o: o.TensorLocations.numIOTiles(30), AssertionError, "between 32 and 192"),
        (lambda o: o.TensorLocations.numIOTiles(194), AssertionError, "between 32 and 192"),
        (lambda o: o.TensorLocations.numIOTiles(33), AssertionError, "an even number"),
        (lambda o: o.setAvailableMemoryProportion({"0": 0.5}), AssertionError, "Invalid key: 0$"),
        (lambda o: o.randomSeed(1.5), AssertionError, "random_seed"),
        (lambda o: o.deviceIterations("2"), AssertionError, "^Unexpected type <class 'str'> for"),
        (lambda o: setattr(o, "device_iteration", 2), AssertionError, "^Invalid option device_ite"),
        (lambda o: o.useGpu(True), AttributeError, r"^Invalid attribute useGpu\.$"),
        (lambda o: setattr(o, "_mine", 2), AttributeError, "^Invalid private attribute _mine"),
        (lambda o: o.toDict(), AssertionError, "output mode must be picked"),
    ],
)
def test_wrong_option_is_refused_where_it_is_set(setting: Any, expected: Any, message: str) -> None:
    with pytest.raises(expected, match=message):
        setting(poptorch.Options())


# ---- compilation


def in_place(net: Net, x: Tensor) -> Tensor:
    net.kept.add_(1)
    return loss(net, x)


def rebound(net: Net, x: Tensor) -> Tensor:
    net.kept = net.kept + 1
    return loss(net, x)


def removed(net: Net, x: Tensor) -> Tensor:
    del net._parameters["weight"]
    return x.mean()


def outside_blocks(net: Net, x: Tensor) -> Tensor:
    with poptorch.Block("a", ipu_id=0):
        y = net.weight * x
    return identity_loss(y, "mean")


def blocks_on(*ipus: int) -> Forward:
    def forward(net: Net, x: Tensor) -> Tensor:
        for ipu in ipus:
            poptorch.Block.start(f"b{ipu}", ipu_id=ipu)
            x = x + (net.weight if ipu == ipus[0] else 1.0)
        return identity_loss(x, "mean")

    return forward


def norm_in_evaluation_mode(net: Net, x: Tensor) -> Tensor:
    scaled = net.weight * x
    return identity_loss(F.batch_norm(scaled, net.kept, net.kept + 1, training=False), "mean")


def weighted(net: Net, x: Tensor) -> Tensor:
    target = torch.zeros(4, dtype=torch.long, device=x.device)
    return F.cross_entropy(net.weight * x, target, weight=net.kept)


COMPILATION: List[Tuple[Forward, str, str]] = [
    (lambda net, x: (net.weight * x).mean(), GRAPH, "Couldn't find a loss in graph!"),
    (
        lambda net, x: (loss(net, x), loss(net, 2 * x)),
        GRAPH,
        "Multiple independent losses found in graph. Graph must have one final loss. Wrap final "
        "graph loss in poptorch.identity_loss.",
    ),
    (lambda net, x: identity_loss(net.weight * x, "none"), BACKEND, "Loss tensor, "),
    (weighted, GRAPH, "cross_entropy: class weights are not supported"),
    (
        in_place,
        GRAPH,
        "PopTorch does not support broadcasting buffers. If your model is able to tolerate buffers "
        "becoming out of sync between replicas, you can disable buffer broadcasting using "
        "poptorch.Options.broadcastBuffers(False).",
    ),
    (
        rebound,
        PYTHON,
        "Buffer kept is reassigned within the model when calling the forward method. This is not "
        "supported. Consider using self.kept.copy_(src)",
    ),
    (
        removed,
        PYTHON,
        "Parameter weight is removed from the model when calling the forward method.",
    ),
    (norm_in_evaluation_mode, BACKEND, 'BatchNorm Op "'),
    (
        outside_blocks,
        GRAPH,
        "No active Block, all the ops must belong to a Block",
    ),
    (
        blocks_on(0, 1),
        GRAPH,
        "poptorch.Options().Training.gradientAccumulation must be greater than or equal to the "
        "number of pipeline stages (3)",
    ),
    (blocks_on(1, 0), BACKEND, "Pipeline stages must ascend along the graph, "),
    (lambda net, x: loss(net, x) * x.sum().item(), GRAPH, "Tensor.item: "),
    (lambda net, x: loss(net, x[x > 3]), GRAPH, "Unsupported ops found in compiled model: [aten::"),
    (lambda net, x: loss(net, x + X), GRAPH, "Expected an IPU tensor but got tensor(device=cpu, "),
    (lambda net, x: loss(net, x[:0]), GRAPH, "Zero-sized tensors are unsupported (Got shape [0, 3"),
    (
        lambda net, x: loss(net, F.adaptive_avg_pool1d(x, 2).mean()),
        GRAPH,
        "Input dim 3 is not divisible by",
    ),
    (
        lambda net, x: loss(net, poptorch.for_loop(2, lambda y: (y + 1,), [x])[0]),
        GRAPH,
        "poptorch.for_loop() is only supported in inference.",
    ),
]


@pytest.mark.parametrize("function, kind, message", COMPILATION)
def test_graph_that_cannot_be_compiled_is_refused(
    function: Forward, kind: str, message: str
) -> None:
    replicated = function is in_place
    options = options_with(replicationFactor=2) if replicated else None
    found = refusal(lambda: poptorch.trainingModel(Net(function), options)(X))
    assert (found[0], found[1][: len(message)]) == (kind, message)


TWO_IPUS = Net(blocks_on(0, 1))
THREE_IPUS = Net(blocks_on(0, 1, 2))
ROWS = torch.ones(65, 3)


@pytest.mark.parametrize(
    "action, kind, message",
    [
        (
            lambda: poptorch.inferenceModel(TWO_IPUS)(X),
            GRAPH,
            "poptorch.Options().deviceIterations must be greater than or equal to the number of "
            "pipeline stages (2)",
        ),
        (
            lambda: poptorch.inferenceModel(THREE_IPUS, options_with(deviceIterations=4))(X),
            GRAPH,
            "The model specifies the use of 3 IPUs, however PopTorch must reserve a minimum of 4",
        ),
        (
            lambda: poptorch.inferenceModel(model(), options_with(replicationFactor=65))(ROWS),
            GRAPH,
            "Too many IPUs requested (65). ",
        ),
        (lambda: poptorch.inferenceModel(model(), popart("abc", 1))(X), GRAPH, "Unknown uint64 "),
        (lambda: poptorch.inferenceModel(model(), popart("abc", "x"))(X), GRAPH, "Unknown string "),
        (
            lambda: poptorch.inferenceModel(model(), popart("autoRecomputation", 9))(X),
            GRAPH,
            "Value for RecomputationType out of range",
        ),
    ],
)
def test_options_that_do_not_suit_the_graph_are_refused(
    action: Any, kind: str, message: str
) -> None:
    found = refusal(action)
    assert (found[0], found[1][: len(message)]) == (kind, message)


def test_parameter_of_another_model_is_a_key_error() -> None:
    foreign = poptorch.optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(KeyError):
        poptorch.trainingModel(model(), None, foreign)(X)


def test_offline_target_compiles_and_neither_runs_nor_attaches() -> None:
    executor = poptorch.inferenceModel(model(), poptorch.Options().useOfflineIpuTarget())
    run = (
        r"^Trying to run a model on an offline device \(ConnectionType\.Never\): use "
        r"model\.compile\(inputs\) instead of model\(inputs\)$"
    )
    attach = r"^Trying to attach to an offline device \(ConnectionType\.Never\)$"
    with pytest.raises(AssertionError, match=run):
        executor(X)
    executor.compile(X)
    assert not executor.isAttachedToDevice()
    with pytest.raises(AssertionError, match=run):
        executor(X)
    with pytest.raises(AssertionError, match=attach):
        executor.attachToDevice()
    assert executor.options.connection_type == ConnectionType.Never


def test_processes_without_a_cache_are_warned(caplog: pytest.LogCaptureFixture) -> None:
    for cache in (None, "cache"):
        options = poptorch.Options().enableExecutableCaching(cache)
        options.Distributed.configureProcessId(0, 2)
        poptorch.inferenceModel(model(), options).compile(X)
    assert caplog.messages == [
        "Use poptorch.Options.enableExecutableCaching() to avoid compiling the model once per "
        "process"
    ]


# ---- a call


def test_short_last_batch_does_not_fit_the_executable(caplog: pytest.LogCaptureFixture) -> None:
    options = poptorch.Options()
    data = torch.utils.data.TensorDataset(X.repeat(2, 1)[:7])
    loader = poptorch.DataLoader(options, data, batch_size=4, drop_last=False)
    assert "not divisible" in caplog.text
    executor = poptorch.inferenceModel(model(), options)
    (whole,), (short,) = loader
    executor(whole)
    kind, message = refusal(lambda: executor(short))
    assert kind == PYTHON
    assert message.startswith(
        "Shape mismatch for x: expected torch.Size([4, 3]) but got torch.Size([3, 3])."
    )


@pytest.mark.parametrize(
    "x", [torch.full((4, 3), float("inf")), torch.full((4, 3), float("nan")), 1e38 * (X + 1)]
)
@pytest.mark.parametrize("wrap", [poptorch.trainingModel, poptorch.inferenceModel])
def test_overflow_is_an_error_where_it_is_asked_for(wrap: Any, x: Tensor) -> None:
    def square(net: Net, x: Tensor) -> Tensor:
        return identity_loss((net.weight * x) ** 2, "mean")

    wrap(Net(square))(x)
    options = poptorch.Options()
    options.Precision.enableFloatingPointExceptions(True)
    kind, message = refusal(lambda: wrap(Net(square), options)(x))
    assert kind == "poplar_application_runtime_error"
    assert message.startswith("Floating point exception")


# ---- no executable


@pytest.mark.parametrize(
    "action",
    [
        *(
            lambda e, name=name: getattr(e, name)()
            for name in (
                "copyWeightsToHost",
                "copyWeightsToDevice",
                "copyNamedBuffersToDevice",
                "attachToDevice",
                "detachFromDevice",
                "compilationTime",
            )
        ),
        lambda e: e.save("nowhere"),
        lambda e: e.rng_state,
        lambda e: setattr(e, "rng_state", [1, 2]),
    ],
)
@pytest.mark.parametrize("destroyed", [False, True])
def test_executable_is_needed(action: Any, destroyed: bool) -> None:
    executor = poptorch.trainingModel(model())
    if destroyed:
        executor(X)
        executor.destroy()
    found = refusal(lambda: action(executor))
    assert found == (PYTHON, "Model has not been compiled or has been destroyed.")


def test_tensor_names_and_anchors_without_an_executable_are_assertions() -> None:
    executor = poptorch.trainingModel(model())
    with pytest.raises(
        AssertionError, match=r"^Model must be compiled before calling getTensorNam"
    ):
        executor.getTensorNames()
    with pytest.raises(AssertionError, match=r"^No tensor with name g found\.$"):
        executor.getAnchoredTensor("g")


def test_compilation_is_timed_with_the_progress_bar_only() -> None:
    options = poptorch.Options().showCompilationProgressBar(False)
    executor = poptorch.inferenceModel(model(), options)
    executor.compile(X)
    kind, message = refusal(executor.compilationTime)
    assert kind == PYTHON
    assert "showCompilationProgressBar(True)" in message
