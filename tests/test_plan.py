"""`plan`: what is asked of the planner, what is remembered, and the run that follows."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cli import main
from app.config.loader import load_run, load_text
from app.config.planning import KEEPABLE, Planning
from app.config.schema import Memory, Run
from app.errors import ConfigError, NoPlanError
from app.ipu_model.cost.convolution.text import plain
from app.ipu_model.memory import Lever, Misfit
from app.ipu_model.memory.result import Term
from app.plan import Source, ask, plan_run, planned_run, run_text
from app.plan import request as asked
from app.plan.answers import Answers, answer_key, answers_directory
from app.plan.reading import read
from app.planner import Alternative, CutMove, Fixed, NoPlan, Plan, PlanError, PlannedStage
from app.simulate import simulate_run
from tests.training.tiny_run import set_flags

REPOSITORY = Path(__file__).parents[1]

SMALL = """
name: small
system: ipu-m2000
model:
  name: efficientnet_b0
  group_size: 16
  expand_ratio: 1
  norm: {kind: layer}
  width_factor: 0.1
  depth_factor: 0.1
data:
  name: digits
  image_size: 8
batching:
  micro_batch: 2
  gradient_accumulation: 3
pipeline:
  splits: [blocks.3.0]
training:
  epochs: 1
"""
RUN = load_text(SMALL, str(REPOSITORY / "ipu_configs" / "small.yml"))

STAGE = PlannedStage(
    module="",
    layers=3,
    parameters=100,
    proportion=0.6,
    stored=("blocks.1",),
    stores_everything=False,
    forward_cycles=100.0,
    backward_cycles=200.5,
    recompute_cycles=0.0,
    host_cycles=7.0,
    peak_tile_bytes=1000,
    always_live_tile_bytes=600,
    largest_terms=(("parameters", 400),),
)
OTHER = Alternative(2, 2, 1, 3, 900.0, 0.2, "none", ("blocks.2",))
PLAN = Plan(
    mode="training",
    system="IPU-M2000",
    objective="throughput",
    global_batch=6,
    limit_tile_bytes=607027,
    tile_memory_bytes=638976,
    clock_hz=1.325e9,
    micro_batch=1,
    gradient_accumulation=3,
    replicas=2,
    splits=("blocks.3",),
    recomputation="pipeline",
    checkpoints=("blocks.1",),
    proportions=(0.6, 0.2),
    optimizer_state_off_chip=False,
    replicated_tensor_sharding=True,
    io_tiles=0,
    throughput_samples_per_s=1234.5,
    step_time_s=0.004,
    latency_s=0.002,
    all_reduce_s=0.0001,
    bubble_fraction=0.1,
    margin=0.25,
    stages=(STAGE, replace(STAGE, module="blocks.3")),
    time=(("forward and backward", 0.003), ("all-reduce", 0.001)),
    moves=(CutMove("blocks.3", "blocks.4", (1.0, 2.0), (2.0, 1.0), (10, 20), (20, 10), True),),
    runners_up=(OTHER,),
    front=(OTHER,),
    forecast=5,
    worked_out=9,
)
MISFIT = Misfit(
    ipu=0,
    tile=3,
    demand_bytes=700000,
    bound_bytes=607027,
    terms=(Term("activations", 700000, False),),
    levers=(Lever("margin 0.05 -> 0", 0, True),),
)


@pytest.fixture(autouse=True)
def backend_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb chooses the IPU Model in the environment: put back what stood there."""
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yml"
    path.write_text(SMALL)
    return path


class Planner:
    """Stands for the planner: gives an answer, and counts how often it is asked."""

    def __init__(self, answer: Any = PLAN) -> None:
        self.answer = answer
        self.requests: List[Any] = []

    def __call__(self, network: Any, request: Any, explain: bool = True) -> Plan:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Plan = self.answer
        return answer


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planner:
    """A planner that answers at once, with a memory of its own."""
    stand_in = Planner()
    monkeypatch.setattr(asked, "plan", stand_in)
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path / "cache"))
    return stand_in


def planning(**given: Any) -> Run:
    return replace(RUN, plan="auto", planning=Planning(**given))


# ---- the planner itself, on a small network

ASKED = ("--ipus", "2", "--keep", "pipeline.stages")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned run of two stages, as `--write` leaves it beside the file that was planned."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "small.yml").write_text(SMALL)
    path = folder / "planned" / "run.yml"
    path.parent.mkdir()
    arguments = ["--config", str(folder / "small.yml"), *ASKED, "--write", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPU_APP_BACKEND", "auto")
        assert main(["plan", *arguments]) == 0
    return path


def question(written: Path) -> List[str]:
    return ["plan", "--config", str(written.parent.parent / "small.yml"), *ASKED]


def test_the_written_file_is_the_planned_run_in_short(written: Path) -> None:
    source = written.parent.parent / "small.yml"
    lines = written.read_text().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    assert body[0] == "extends: ../small.yml"
    assert 1 < len(body) < 20
    assert f"#   python -m app {' '.join(question(written))} --write {written}" in lines
    assert any(line.startswith("# Simulated: ") for line in lines)
    asked_for = Planning(ipus=2, keep=("pipeline.stages",))
    run = replace(load_run(source), plan="auto", planning=asked_for)
    assert load_run(written) == planned_run(run, plan_run(run))
    assert load_run(written).pipeline.stages == 2


def test_what_the_planner_promises_is_what_the_written_file_simulates(written: Path) -> None:
    run = load_run(written)
    simulation = simulate_run(run)
    plan = plan_run(replace(load_text(SMALL, str(written)), planning=run.planning))
    assert simulation.fits
    assert simulation.throughput_samples_per_s == pytest.approx(plan.throughput_samples_per_s)
    assert 1 - simulation.peak_tile_bytes / plan.tile_memory_bytes == pytest.approx(plan.margin)


def test_the_same_question_is_answered_the_same_without_torch(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(question(written)) == 0
    first = capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app", *question(written)],
        cwd=REPOSITORY,
        env={**os.environ, "IPU_APP_BACKEND": "auto"},
        capture_output=True,
        text=True,
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert (done.returncode, done.stdout) == (0, first)
    assert "app.plan.answers" in imported
    assert not {"torch", "app.sdk", "app.plan.request"} & imported
    assert "simulated" in first.splitlines()[0]


def test_the_json_is_one_object_that_names_the_file(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = question(written)
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    content: Dict[str, Any] = json.loads(out)
    assert err == ""
    assert content["config"] == arguments[2]
    assert content["simulated"] is True
    assert len(content["stages"]) == 2
    assert content["global_batch"] == 6


@pytest.mark.long
def test_a_request_that_nothing_meets_leaves_with_3_and_says_what_would(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--config", str(small), "--ipus=1", "--margin=0.9"]
    for _ in range(2):  # worked out, and remembered
        assert main(arguments) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("No plan fits – simulated\n")
        assert "margin 0.9 -> 0: then it fits" in err
        assert err.endswith("\n")
        assert not err.endswith("\n\n")


def test_simulate_plans_first_and_says_so(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = set_flags("plan=auto", "planning={ipus: 2, keep: [pipeline.stages]}")
    arguments = ["simulate", "--config", question(written)[2], *flags]
    assert main(arguments) == 0
    said, _, summary = capsys.readouterr().out.partition("\n")
    assert said.startswith("plan: auto – simulated as planned: 2 stages x 1 replica, micro-batch ")
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == said + "\n"
    planned = json.loads(out)
    assert main(["simulate", "--config", str(written)]) == 0
    assert capsys.readouterr().out == summary
    assert planned["stages"] == 2


def test_inference_is_planned_as_evaluation_runs(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "inference.yml"
    flags = ["--mode=inference", "--global-batch=8", "--ipus=1", "--json", f"--write={path}"]
    assert main(["plan", "--config", str(small), *flags]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["mode"], plan["micro_batch"], plan["gradient_accumulation"]) == ("inference", 8, 1)
    assert main(["simulate", "--config", str(path), "--json"]) == 0
    simulated = json.loads(capsys.readouterr().out)
    assert simulated["mode"] == "inference"
    assert simulated["throughput_samples_per_s"] == pytest.approx(plan["throughput_samples_per_s"])


# ---- what is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--margin=1"], "--margin: must lie in [0, 1), got 1.0; give another value"),
        (["--global-batch=0"], "--global-batch: must be at least 1, got 0; give another value"),
        (
            ["--keep=pipeline.split"],
            "--keep: cannot hold 'pipeline.split'; did you mean 'pipeline.splits'?; give another",
        ),
        (["--objective=ipus"], "planning.throughput: is needed by the objective 'ipus'; give the"),
        (["--ipus=8"], "planning.ipus: IPU-M2000 has 4, got 8; ask for fewer"),
        (
            ["--keep=memory.recomputation"],
            "planning.keep: memory.recomputation is 'auto', which depends on the number of stages;",
        ),
        (
            ["--keep=memory.recomputation", *set_flags("memory.recomputation=standard")],
            "planning.keep: the planner knows the recomputation none, all and PopTorch's own, not",
        ),
    ],
)
def test_a_request_that_contradicts_itself_is_one_sentence(
    small: Path, capsys: pytest.CaptureFixture[str], flags: List[str], message: str
) -> None:
    assert main(["plan", "--config", str(small), *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(message)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (PlanError("global_batch: 7 cannot be; change it"), "planning.global_batch: 7 cannot be;"),
        (PlanError("checkpoints: none; keep"), "memory.checkpoints: none; keep"),
        (PlanError("splits: no stage; keep another"), "pipeline.splits: no stage; keep another"),
    ],
)
def test_what_the_planner_refuses_is_named_as_in_the_file(
    small: Path,
    planner: Planner,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    message: str,
) -> None:
    planner.answer = raised
    assert main(["plan", "--config", str(small)]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_network_that_cannot_run_is_refused_in_the_applications_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def plan(network: Any, request: Any, explain: bool) -> Plan:
        network.at(1)
        return PLAN

    monkeypatch.setattr(asked, "plan", plan)
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path))
    norm = replace(RUN.model.norm, kind="batch")
    run = replace(RUN, model=replace(RUN.model, norm=norm))
    with pytest.raises(ConfigError, match="does not run on 1 images of 8 x 8 pixels"):
        plan_run(run)


def test_the_planned_file_is_not_overwritten(
    small: Path, planner: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--config", str(small), "--write", str(small)]) == 2
    assert capsys.readouterr().err == "--write: is the file that is planned; give another one\n"
    assert small.read_text() == SMALL
    assert planner.requests == []


@pytest.mark.parametrize("flag", ["--write", "--picture"])
def test_a_place_that_cannot_be_written_is_one_sentence(
    small: Path, planner: Planner, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    path = small / "below" / "a" / "file"
    assert main(["plan", "--config", str(small), flag, str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{flag} {path}: cannot be written (")
    assert err.endswith("; choose another path\n")


def test_ipus_take_what_is_remembered_and_ask_for_it_otherwise(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask.backend, "chosen", lambda: "ipu")
    with pytest.raises(ConfigError, match="run `python -m app plan` on the same configuration"):
        plan_run(RUN, explain=False)
    with monkeypatch.context() as patch:
        patch.setattr(ask.backend, "chosen", lambda: "ipu-model")
        assert plan_run(RUN) == PLAN
    assert plan_run(RUN, explain=False) == PLAN


# ---- what is asked


@pytest.mark.parametrize(
    ("overrides", "name", "value"),
    [
        ({}, "global_batch", 6),
        ({"global_batch": 48}, "global_batch", 48),
        ({"mode": "inference"}, "global_batch", 2),
        ({"objective": "latency"}, "objective", "latency"),
        ({"objective": "ipus", "throughput": 5.0}, "throughput_samples_per_s", 5.0),
        ({"margin": 0.2}, "margin", 0.2),
        ({"ipus": 2}, "ipus", 2),
        ({}, "ipus", 0),
        ({}, "fixed", Fixed()),
        ({"keep": ("batching.micro_batch",)}, "fixed", Fixed(micro_batch=2)),
        ({"keep": ("batching.replicas",)}, "fixed", Fixed(replicas=1)),
        ({"keep": ("pipeline.splits",)}, "fixed", Fixed(splits=("blocks.3.0",))),
        ({"keep": ("pipeline.stages",)}, "fixed", Fixed(stages=2)),
        (
            {"keep": ("pipeline.stages", "memory.recomputation")},
            "fixed",
            Fixed(stages=2, recomputation="pipeline"),
        ),
        ({"keep": ("memory.checkpoints",)}, "fixed", Fixed(checkpoints=())),
        ({"keep": ("memory.available_memory_proportion",)}, "fixed", Fixed(proportions=(0.6,))),
        ({"keep": ("memory.optimizer_state_off_chip",)}, "fixed", Fixed(state_off_chip=False)),
        (
            {"keep": ("memory.replicated_tensor_sharding",)},
            "fixed",
            Fixed(replicated_tensor_sharding=False),
        ),
        ({"keep": ("memory.io_tiles",)}, "fixed", Fixed(io_tiles=0)),
        (
            {"keep": tuple(n for n in KEEPABLE if n.startswith("memory.")), "mode": "inference"},
            "fixed",
            Fixed(proportions=(0.6,), io_tiles=0),
        ),
    ],
)
def test_the_section_becomes_a_request(overrides: Dict[str, Any], name: str, value: Any) -> None:
    assert getattr(asked.request_of(planning(**overrides)), name) == value


def test_the_request_has_the_program_of_the_run_and_no_cuts() -> None:
    run = replace(planning(), memory=Memory(checkpoints=("nowhere",)))
    execution = asked.request_of(run).execution
    assert (execution.mode, execution.optimizer.name) == ("training", "rmsprop")
    assert execution.checkpoints == frozenset()
    inference = asked.request_of(planning(mode="inference")).execution
    assert (inference.mode, inference.optimizer.states) == ("inference", 0)


# ---- what is remembered


def test_an_answer_is_worked_out_once(planner: Planner) -> None:
    run = planning()
    assert plan_run(run) == plan_run(run) == plan_run(run, explain=False) == PLAN
    assert len(planner.requests) == 1


def test_a_refusal_is_worked_out_once(planner: Planner) -> None:
    planner.answer = NoPlan(MISFIT)
    for _ in range(2):
        with pytest.raises(NoPlanError, match=r"margin 0\.05 -> 0") as refused:
            plan_run(RUN)
        assert refused.value.exit_code == 3
    assert len(planner.requests) == 1


def test_no_explanation_is_no_answer_to_who_wants_one(planner: Planner) -> None:
    plan_run(RUN, explain=False)
    plan_run(RUN, explain=True)
    assert len(planner.requests) == 2


def test_a_fresh_plan_replaces_what_is_remembered(planner: Planner) -> None:
    plan_run(RUN)
    planner.answer = replace(PLAN, margin=0.5)
    assert plan_run(RUN) == PLAN
    assert plan_run(RUN, fresh=True).margin == 0.5
    assert plan_run(RUN).margin == 0.5
    assert len(planner.requests) == 2


@pytest.mark.parametrize(
    "other",
    [
        planning(margin=0.1),
        planning(global_batch=12),
        replace(RUN, seed=1),
        replace(RUN, system=replace(RUN.system, ipus=2)),
    ],
)
def test_another_question_has_another_key(other: Run) -> None:
    assert answer_key(other, True) != answer_key(planning(), True)
    assert answer_key(planning(), False) != answer_key(planning(), True)


def test_whether_a_file_says_auto_or_given_is_the_same_question(planner: Planner) -> None:
    plan_run(RUN)
    plan_run(replace(RUN, plan="auto"))
    assert len(planner.requests) == 1


@pytest.mark.parametrize("answer", [PLAN, MISFIT])
def test_an_answer_is_read_back_as_it_was(tmp_path: Path, answer: Any) -> None:
    answers = Answers(tmp_path / "made")
    answers.store("a", answer)
    assert answers.load("a") == answer
    assert answers.load("b") is None


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_answer_is_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("answers")
    answers = Answers(folder)
    answers.store("a", PLAN)
    whole = (folder / "a.json").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    (folder / "a.json").write_bytes(whole[:at] + (b"" if cut else bytes([byte]) + whole[at + 1 :]))
    assert answers.load("a") is None


def test_an_answer_under_another_key_is_none(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    answers.store("a", PLAN)
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    assert answers.load("b") is None


def test_a_memory_that_cannot_be_written_is_none(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path / "file"))
    assert plan_run(RUN) == plan_run(RUN) == PLAN
    assert len(planner.requests) == 2
    Answers(None).store("a", PLAN)
    assert Answers(None).load("a") is None


def test_the_oldest_answers_are_dropped(tmp_path: Path) -> None:
    answers = Answers(tmp_path, most=2)
    for time, key in enumerate("abc"):
        answers.store(key, PLAN)
        os.utime(str(tmp_path / f"{key}.json"), (time, time))
    answers.store("d", PLAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "d.json"]


def test_answers_stand_beside_the_convolution_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", "/some/where")
    assert answers_directory() == Path("/some/where/answers")


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": "1"},
        {"micro_batch": True},
        {"margin": None},
        {"clock_hz": float("inf")},
        {"splits": "blocks.3"},
        {"splits": [1]},
        {"time": [["all-reduce", 0.1, 0.2]]},
        {"stages": [{}]},
        {"stages": 1},
        {"further": 1},
    ],
)
def test_what_is_no_plan_is_not_read_as_one(changes: Dict[str, Any]) -> None:
    assert read(Plan, plain(PLAN)) == PLAN
    with pytest.raises(ValueError, match="must "):
        read(Plan, {**plain(PLAN), **changes})


def test_an_optional_value_is_there_or_none() -> None:
    assert read(Optional[int], None) is None
    assert read(Optional[int], 3) == 3
    with pytest.raises(ValueError, match="must be"):
        read(Optional[int], "3")


# ---- the run that follows


def test_a_planned_run_has_all_that_a_plan_decides() -> None:
    run = planned_run(planning(), PLAN)
    batching = replace(RUN.batching, micro_batch=1, gradient_accumulation=3, replicas=2)
    assert run == replace(
        RUN,
        batching=batching,
        pipeline=replace(RUN.pipeline, splits=("blocks.3",)),
        memory=Memory(
            recomputation="auto",
            checkpoints=("blocks.1",),
            available_memory_proportion=(0.6, 0.2),
            replicated_tensor_sharding=True,
        ),
    )


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"recomputation": "none"}, "recomputation", "none"),
        ({"recomputation": "all", "splits": ()}, "recomputation", "all"),
        ({"proportions": (0.6, 0.6)}, "available_memory_proportion", ()),  # as it was
        ({"proportions": (0.6,)}, "available_memory_proportion", ()),
        ({"proportions": (0.2, 0.2)}, "available_memory_proportion", (0.2,)),
        ({"optimizer_state_off_chip": True}, "optimizer_state_off_chip", True),
        ({"io_tiles": 64}, "io_tiles", 64),
    ],
)
def test_a_plans_use_of_memory_in_the_words_of_a_run(
    changes: Dict[str, Any], name: str, expected: Any
) -> None:
    plan = replace(PLAN, **{"proportions": (0.6,), **changes})
    assert getattr(planned_run(RUN, plan).memory, name) == expected


def test_a_plan_for_inference_leaves_alone_what_training_does() -> None:
    memory = Memory(recomputation="all", optimizer_state_off_chip=True, checkpoints=("blocks.2",))
    run = replace(planning(mode="inference"), memory=memory)
    plan = replace(PLAN, mode="inference", gradient_accumulation=1, proportions=(0.6,))
    planned = planned_run(run, plan)
    assert planned.memory == memory
    assert planned.batching.gradient_accumulation == RUN.batching.gradient_accumulation
    assert planned.batching.micro_batch == 1


def test_a_plan_of_another_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"plan: is of another run, 'batching.replicas' must fit"):
        planned_run(RUN, replace(PLAN, replicas=64))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("batching.micro_batch", "keeps batching.micro_batch at 2, only one with 1; leave it out"),
        ("pipeline.splits", r"keeps pipeline.splits at \[blocks.4\], only one with \[blocks.3\]"),
        ("memory.checkpoints", r"keeps memory.checkpoints at \[\], only one with \[blocks.1\]"),
        ("memory.available_memory_proportion", r"at \[0.6, 0.6\], only one with \[0.2, 0.6\]"),
        ("memory.replicated_tensor_sharding", "at False, only one with True"),
    ],
)
def test_a_plan_that_keeps_not_what_it_was_told_to_is_refused(
    planner: Planner, keep: str, message: str
) -> None:
    pipeline = replace(RUN.pipeline, splits=("blocks.4",))
    with pytest.raises(ConfigError, match=message):
        plan_run(replace(RUN, pipeline=pipeline, planning=Planning(keep=(keep,))))


@pytest.mark.parametrize(
    "keep", ["pipeline.stages", "pipeline.splits", "memory.io_tiles", "batching.replicas"]
)
def test_a_plan_that_keeps_what_it_was_told_to_is_taken(planner: Planner, keep: str) -> None:
    planner.answer = replace(PLAN, replicas=1)
    run = replace(RUN, planning=Planning(keep=(keep,)))
    assert plan_run(run) == planner.answer
    splits = planned_run(run, planner.answer).pipeline.splits
    assert splits == (RUN.pipeline.splits if keep == "pipeline.splits" else ("blocks.3",))


# ---- the file that is written

OVERRIDES: Sequence[Tuple[str, ...]] = (
    (),
    ("training.epochs=7", "optimizer={name: adamw, learning_rate: 0.001}"),
    ("system=bow-2000", "data.path='on'"),
    ("model.norm.epsilon=null", "memory.available_memory_proportion=[0.3]"),
    ("planning={ipus: null, keep: [memory.io_tiles], margin: 0.25}",),
)
splits = st.lists(st.text(min_size=1), unique=True, max_size=1).map(tuple)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that itself extends another, and is not beside the ones that extend it."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "small.yml").write_text(SMALL)
    (folder / "more").mkdir()
    (folder / "written").mkdir()
    path = folder / "more" / "base.yml"
    path.write_text("extends: ../small.yml\nmodel: {norm: {epsilon: 0.5}}\ndata: {path: there}\n")
    return path


@settings(deadline=None, max_examples=40)
@given(
    overrides=st.sampled_from(OVERRIDES),
    extends=st.booleans(),
    names=splits,
    checkpoints=st.lists(st.text(), max_size=3).map(tuple),
    proportion=st.floats(0, 1),
    recomputation=st.sampled_from(["none", "all", "pipeline"]),
    off_chip=st.booleans(),
    command=st.text(),
)
def test_a_written_run_reads_back_as_the_planned_one(
    base: Path,
    overrides: Tuple[str, ...],
    extends: bool,
    names: Tuple[str, ...],
    checkpoints: Tuple[str, ...],
    proportion: float,
    recomputation: str,
    off_chip: bool,
    command: str,
) -> None:
    run = load_run(base, overrides)
    plan = replace(
        PLAN,
        splits=names,
        checkpoints=checkpoints,
        proportions=(0.6, proportion)[: len(names) + 1],
        recomputation=recomputation,
        optimizer_state_off_chip=off_chip,
    )
    target = base.parent.parent / "written" / "run.yml"
    source = Source(base, target.parent) if extends else None
    text = run_text(run, plan, command, source)
    assert load_text(text, str(target)) == planned_run(run, plan)
    assert run_text(run, plan, command, source) == text
    assert text.startswith("# A plan for efficientnet_b0 on ")


def test_a_long_list_of_checkpoints_is_wrapped(base: Path) -> None:
    names = tuple(f"blocks.{number}.conv_dw" for number in range(100))
    plan = replace(PLAN, checkpoints=names)
    text = run_text(RUN, plan, "a command", Source(base, base.parent))
    assert load_text(text, str(base.parent / "run.yml")).memory.checkpoints == names
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_file_without_a_source_is_complete(tmp_path: Path) -> None:
    text = run_text(planning(), PLAN, "a command")
    assert "extends" not in text
    assert "    tiles: 1472\n" in text
    assert "#   a command\n" in text
    assert "25 % of the fullest tile's memory free" in text


def test_a_picture_and_a_file_are_said(
    small: Path, planner: Planner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, file = tmp_path / "plan.png", tmp_path / "planned.yml"
    arguments = ["--picture", str(picture), "--write", str(file)]
    assert main(["plan", "--config", str(small), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"run file {file}: python -m app train --config {file}",
        f"picture {picture}",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert load_run(file).batching.replicas == 2
