"""What a run asks of the planner, and which rules wait for its plan."""

from pathlib import Path
from typing import List

import pytest

from app.config.loader import dump, load_text
from app.config.planning import KEEPABLE, Planning
from app.config.schema import Run
from app.errors import ConfigError

RUN = """name: small
system: ipu-m2000
model: {name: efficientnet_b0}
data: {name: digits, image_size: 8}
batching: {micro_batch: 2}
training: {epochs: 1}
"""
CONFIGS = Path(__file__).parents[2] / "ipu_configs"


def run_of(*lines: str) -> Run:
    return load_text(RUN + "".join(f"{line}\n" for line in lines), str(CONFIGS / "run.yml"))


def refusal(*lines: str) -> str:
    with pytest.raises(ConfigError) as refused:
        run_of(*lines)
    return str(refused.value).rpartition("run.yml:")[2]


def test_a_run_is_as_given_unless_it_says_otherwise() -> None:
    assert (run_of().plan, run_of().planning) == ("given", Planning())


def test_every_field_is_read_and_survives_a_dump() -> None:
    run = run_of(
        "plan: auto",
        "planning:",
        "  global_batch: 768",
        "  objective: ipus",
        "  throughput: 1000",
        "  margin: 0.1",
        "  ipus: 2",
        "  mode: inference",
        "  keep: [pipeline.splits, memory.io_tiles]",
    )
    assert run.planning == Planning(
        global_batch=768,
        objective="ipus",
        throughput=1000.0,
        margin=0.1,
        ipus=2,
        mode="inference",
        keep=("pipeline.splits", "memory.io_tiles"),
    )
    assert load_text(dump(run), "dump") == run


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["plan: automatic"], "7: 'plan' cannot be 'automatic' (str); did you mean 'auto'?"),
        (["planning: {margin: 1}"], "7: 'planning.margin' must lie in [0, 1), got 1.0"),
        (["planning: {margin: -0.1}"], "7: 'planning.margin' must lie in [0, 1), got -0.1"),
        (["planning: {ipus: 0}"], "7: 'planning.ipus' must be at least 1, got 0"),
        (["planning: {global_batch: 0}"], "7: 'planning.global_batch' must be at least 1, got 0"),
        (["planning: {throughput: 0}"], "7: 'planning.throughput' must be positive, got 0.0"),
        (
            ["planning: {objective: speed}"],
            "7: 'planning.objective' cannot be 'speed' (str); use one of throughput, latency, "
            "ipus, micro_batch",
        ),
        (
            ["plan: auto", "planning:", "  objective: ipus"],
            "8: 'planning.throughput' is needed by the objective 'ipus'; give the samples/s to "
            "reach",
        ),
        (
            ["planning:", "  keep: [pipeline.splits, batching.microbatch]"],
            "8: 'planning.keep' cannot hold 'batching.microbatch'; did you mean "
            "'batching.micro_batch'?",
        ),
        (
            ["planning:", "  keep: [seed]"],
            f"8: 'planning.keep' cannot hold 'seed'; use one of {', '.join(KEEPABLE)}",
        ),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_on_its_line(
    lines: List[str], message: str
) -> None:
    assert refusal(*lines) == message


@pytest.mark.parametrize(
    "lines",
    [
        ["pipeline: {splits: [blocks.1]}"],
        ["pipeline: {splits: [a, b, c, d, e]}"],
        ["memory: {available_memory_proportion: [0.1, 0.2]}"],
    ],
)
def test_rules_between_what_a_plan_decides_wait_for_it(lines: List[str]) -> None:
    assert "must " in refusal(*lines)
    assert run_of("plan: auto", *lines).plan == "auto"


@pytest.mark.parametrize(
    "lines", [["seed: -1"], ["memory: {io_tiles: 3}"], ["batching: {micro_batch: 0}"]]
)
def test_rules_of_one_value_do_not(lines: List[str]) -> None:
    text = RUN.replace("batching: {micro_batch: 2}\n", "") if "batching" in lines[0] else RUN
    with pytest.raises(ConfigError, match="must "):
        load_text(text + f"plan: auto\n{lines[0]}\n", str(CONFIGS / "run.yml"))


def test_a_pipeline_for_inference_needs_no_accumulation() -> None:
    splits = "pipeline: {splits: [blocks.1]}"
    assert "must be at least 3 for 2 pipeline stages" in refusal(splits)
    assert run_of(splits, "planning: {mode: inference}").pipeline.stages == 2


def test_what_can_be_kept_is_a_setting_of_the_run() -> None:
    run = run_of()
    for name in KEEPABLE:
        section, field = name.split(".")
        assert hasattr(getattr(run, section), field), name
