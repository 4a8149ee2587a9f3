"""All that the application asks of PopTorch and PopDist exists there, with the arguments it gives.

The IPU Model accepts what PopTorch accepts, but the application must not depend on that: what it
asks is held against the interface itself, read off the source and watched in a run.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Set
from unittest import mock

import pytest

from app.ipu_model import popdist
from tests.ipu_model.test_api import described
from tests.sdk_api.recorder import Asked, Recorder, problems
from tests.sdk_api.table import Table
from tests.sdk_api.walk import Reading, files, read

ROOT = Path(__file__).parents[1]
TABLE = Table()
ESSENTIAL = {
    "poptorch.BeginBlock",
    "poptorch.DataLoader",
    "poptorch.Options.Training.gradientAccumulation",
    "poptorch.Options.deviceIterations",
    "poptorch.Options.enableExecutableCaching",
    "poptorch.Options.enableProfiling",
    "poptorch.Options.replicationFactor",
    "poptorch.Options.useOfflineIpuTarget",
    "poptorch.OutputMode.Sum",
    "poptorch.PoplarExecutor.detachFromDevice",
    "poptorch.PoplarExecutor.rng_state",
    "poptorch.PoplarExecutor.setOptimizer",
    "poptorch.TensorLocationSettings.useOnChipStorage",
    "poptorch.inferenceModel",
    "poptorch.optim.RMSprop",
    "poptorch.trainingModel",
}


def of_source(text: str) -> Reading:
    return read([("app/x.py", "from app.sdk import popdist, poptorch\n" + text)], TABLE)


# ---- the source


@pytest.fixture(scope="module")
def source() -> Reading:
    model = ROOT / "app" / "ipu_model"
    own = [each for each in files(ROOT / "app") if model not in Path(each[0]).parents]
    return read(own, TABLE)


def test_the_source_asks_nothing_that_is_not_there(source: Reading) -> None:
    assert sorted(source.problems) == []


def test_the_walk_reaches_what_the_application_uses(source: Reading) -> None:
    assert source.uses >= ESSENTIAL | {"popdist.poptorch.Options()", "poptorch.Error"}


WRONG = {
    "poptorch.trainingModell(net)": "poptorch has no 'trainingModell'",
    "poptorch.OutputMode.Some": "poptorch.OutputMode has no 'Some'",
    "poptorch.optim.Adagrad([])": "poptorch.optim has no 'Adagrad'",
    "popdist.getNumHosts()": "popdist has no 'getNumHosts'",
    "poptorch.Options().deviceIteration(3)": "poptorch.Options has no 'deviceIteration'",
    "poptorch.Options().randomSeed(1).Training.accumulate(2)": (
        "poptorch.Options.Training has no 'accumulate'"
    ),
    "poptorch.Options().Training.gradientAccumulation(steps=3)": (
        "missing a required argument: 'gradient_accumulation'"
    ),
    "poptorch.trainingModel(net, options, optimizer, True)": "too many positional arguments",
    "poptorch.trainingModel()": "missing a required argument: 'model'",
    "poptorch.trainingModel(*nets, wrong=1)": "got an unexpected keyword argument 'wrong'",
    "poptorch.trainingModel(net).isCompiled(1)": "too many positional arguments",
    "poptorch.trainingModel(net).attach()": "poptorch.PoplarExecutor has no 'attach'",
    "poptorch.Options()(3, 4)": "too many positional arguments",
    "anything.copyWeightsToGpu()": "nothing of the SDK has 'copyWeightsToGpu'",
    "anything.copyWeightsToDevice(1)": "too many positional arguments",
    "popdist.poptorch.Options(2).replicationFactor(2)": (
        "popdist.poptorch.Options has no 'replicationFactor'"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_the_walk_sees_what_is_not_there(text: str) -> None:
    (problem,) = of_source(text).problems
    assert problem.startswith("app/x.py:2: ") and problem.endswith(WRONG[text])


FOLLOWED = {
    "a local": "options = poptorch.Options()\noptions.wrong()",
    "an annotation": "def f(options: poptorch.Options) -> None:\n    options.wrong()",
    "a quoted annotation": "def f(options: 'poptorch.Options') -> None:\n    options.wrong()",
    "a function": "def make() -> poptorch.Options: ...\nmake().wrong()",
    "an attribute": (
        "class A:\n"
        "    def use(self): self.options.wrong()\n"
        "    def make(self): self.options = poptorch.Options()"
    ),
    "a chain": "poptorch.Options().deviceIterations(2).autoRoundNumIPUs().wrong()",
    "a property": "poptorch.trainingModel(net).options.wrong()",
}


@pytest.mark.parametrize("way", FOLLOWED)
def test_the_walk_follows_objects(way: str) -> None:
    (problem,) = of_source(FOLLOWED[way]).problems
    assert problem.endswith("poptorch.Options has no 'wrong'")


def test_what_poptorch_has_is_no_problem() -> None:
    right = [
        "poptorch.Options().deviceIterations(device_iterations=2).Training.gradientAccumulation(4)",
        "poptorch.DataLoader(options, data, 4, sampler=sampler, **more)",
        "poptorch.optim.SGD(groups, lr=0.1).param_groups",
        "poptorch.trainingModel(net)(images, labels)",
        "popdist.execute_on_instances({0}, print, 1, end='')",
    ]
    assert of_source("\n".join(right)).problems == set()


# ---- a run


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Set[Asked]:
    out = tmp_path_factory.mktemp("asked") / "asked.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.sdk_api.recorder", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    records: List[Any] = json.loads(out.read_text(encoding="utf-8"))
    return {(owner, name, count, tuple(names)) for owner, name, count, names in records}


@pytest.mark.long
def test_a_run_asks_nothing_that_is_not_there(asked: Set[Asked]) -> None:
    assert problems(asked, TABLE) == []


def test_the_run_reaches_what_the_application_uses(asked: Set[Asked], source: Reading) -> None:
    names = {f"{owner}.{name}" for owner, name, _, _ in asked}
    assert names >= ESSENTIAL
    options = {name for name in source.uses if name.startswith("poptorch.Options.")}
    unreached = {name for name in options if not name.endswith("()")} - names
    assert unreached == {  # several instances ask for these
        "poptorch.Options.Distributed",
        "poptorch.Options.Distributed.configureProcessId",
        "poptorch.Options.replication_factor",
    }


def test_recorders_see_what_is_not_there() -> None:
    log: Set[Asked] = set()
    sdk: Any = Recorder(mock.MagicMock(), "poptorch", "", TABLE, log)
    options = sdk.Options().deviceIterations(2)
    options.Training.gradientAccumulation(3, steps=4)
    options.wrong()
    executor = sdk.trainingModel(object(), options)
    executor.compile(1, 2)
    executor.options = options
    sdk.trainingModell()
    assert problems(log, TABLE) == [
        "poptorch has no 'trainingModell'",
        "poptorch.Options has no 'wrong'",
        "poptorch.Options.Training.gradientAccumulation(gradient_accumulation): got an unexpected "
        "keyword argument 'steps'",
        "poptorch.PoplarExecutor.options cannot be set",
    ]


def test_recorders_hand_the_sdk_what_they_stand_for() -> None:
    target = mock.MagicMock()
    sdk: Any = Recorder(target, "poptorch", "", TABLE, set())
    options = sdk.Options()
    sdk.trainingModel("net", options=options)
    target.trainingModel.assert_called_once_with("net", options=target.Options.return_value)
    assert list(Recorder([1, 2], "poptorch.DataLoader", "", TABLE, set())) == [1, 2]


# ---- the interface


def test_popdist_is_as_the_ipu_model_has_it() -> None:
    stated = {name for name, member in TABLE.types["popdist"].items() if member.kind == "callable"}
    assert stated == set(popdist.__all__)
    for name in stated:
        found = list(inspect.signature(getattr(popdist, name)).parameters.values())
        names = [line.split(" ")[0] for line in described(found)]
        params = TABLE.types["popdist"][name].params
        assert params is not None
        assert names == [each["name"] for each in params], name


def test_an_object_of_torch_has_what_torch_gives_it() -> None:
    assert TABLE.unknown("poptorch.optim.AdamW", "param_groups") == ""
    assert TABLE.unknown("poptorch.Options", "param_groups") != ""
