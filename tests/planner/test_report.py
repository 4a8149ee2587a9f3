"""How a plan is shown: as text, as JSON, as a picture; and how a refusal is."""

import dataclasses
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from app.ipu_model.memory import Term
from app.ipu_model.simulation import Lever, Misfit
from app.planner import Alternative, CutMove, Plan, PlannedStage
from app.planner.report import as_json_text, draw, json_text, refusal, summary
from app.planner.report.lines import wrapped
from app.planner.report.picture import figure
from app.planner.report.sentences import (
    is_this_plan,
    losses_sentence,
    memory_sentence,
    move_verdict,
)

KIB = 1024
LIMIT = 600 * KIB
STAGES = (1, 2, 8, 16)


def stage(module: str, cycles: float = 4e6, peak_tile_bytes: int = 400 * KIB) -> PlannedStage:
    """Of its cycles a quarter is forward, half backward, an eighth recomputation and host each."""
    return PlannedStage(
        module=module,
        layers=20,
        parameters=1_230_000,
        proportion=0.6,
        stored=(f"{module}.conv", f"{module}.bn"),
        stores_everything=False,
        forward_cycles=cycles / 4,
        backward_cycles=cycles * 5 / 8,
        recompute_cycles=cycles / 8,
        host_cycles=cycles / 8,
        peak_tile_bytes=peak_tile_bytes,
        always_live_tile_bytes=peak_tile_bytes // 2,
        largest_terms=(("stashes", 100 * KIB), ("code and vertex state", 50 * KIB)),
    )


def alternative(throughput_samples_per_s: float, margin: float, **changes: Any) -> Alternative:
    """Of the plan's own batching, unless changed."""
    given_or_own: Dict[str, Any] = {
        "stages": 2,
        "replicas": 4,
        "micro_batch": 8,
        "gradient_accumulation": 6,
        "recomputation": "pipeline",
        "splits": ("blocks.1",),
        **changes,
    }
    return Alternative(
        throughput_samples_per_s=throughput_samples_per_s, margin=margin, **given_or_own
    )


def made(**changes: Any) -> Plan:
    """Two stages; a step of 10 ms."""
    stages = (stage("", 4e6), stage("blocks.1", 2e6, 590 * KIB))
    move = CutMove(
        cut="blocks.1",
        moved_to="blocks.0.bn2",
        cycles=(4e6, 2e6),
        moved_cycles=(3e6, 3e6),
        tile_bytes=(400 * KIB, 590 * KIB),
        moved_tile_bytes=(390 * KIB, 610 * KIB),
        fits=False,
    )
    slower = replace(
        move,
        moved_to="blocks.1.bn1",
        moved_cycles=(4.4e6, 1.6e6),
        moved_tile_bytes=(410 * KIB, 570 * KIB),
        fits=True,
    )
    own = alternative(19200.0, 0.05)
    plan = Plan(
        mode="training",
        system="IPU-POD16",
        objective="throughput",
        global_batch=192,
        limit_tile_bytes=LIMIT,
        tile_memory_bytes=624 * KIB,
        clock_hz=1.325e9,
        micro_batch=8,
        gradient_accumulation=6,
        replicas=4,
        splits=("blocks.1",),
        recomputation="pipeline",
        checkpoints=("a", "b", "c", "d"),
        proportions=(0.6, 0.6),
        optimizer_state_off_chip=False,
        replicated_tensor_sharding=True,
        io_tiles=0,
        throughput_samples_per_s=19200.0,
        step_time_s=0.01,
        latency_s=0.002,
        all_reduce_s=0.001,
        bubble_fraction=0.2,
        margin=0.05,
        stages=stages,
        time=(
            ("forward and backward", 0.006),
            ("recomputation", 0.0005),
            ("waiting for the slowest stage", 0.002),
            ("weight update", 0.0005),
            ("all-reduce", 0.001),
        ),
        moves=(move, slower),
        runners_up=(alternative(18240.0, 0.08, stages=4, replicas=2, micro_batch=4),),
        front=(alternative(19392.0, 0.01), own, alternative(17280.0, 0.2)),
        forecast=47,
        worked_out=1,
    )
    return replace(plan, **changes)


def staged(count: int) -> Plan:
    """A plan of so many stages, each cut of which has a move."""
    names = tuple(f"blocks.{number}.0.se.conv_reduce" for number in range(1, count))
    stages = (
        stage("", 4e6),
        *(stage(name, 1e6 * (1 + n % 4), (200 + 25 * n) * KIB) for n, name in enumerate(names)),
    )
    moves = tuple(replace(made().moves[0], cut=name) for name in names)
    return made(stages=stages, splits=names, moves=moves, proportions=(0.6,) * count)


def line(text: str, start: str) -> str:
    """The only line that begins so."""
    (found,) = [each for each in text.splitlines() if each.strip().startswith(start)]
    return found


# ---- text


def test_the_headline_says_what_was_asked_for_and_what_is_reached() -> None:
    head = summary(made()).split("\n\n")[0]
    assert head.splitlines() == [
        "Plan for training on IPU-POD16: most throughput – simulated",
        "  throughput   19.2 k samples/s",
        "  step time    10.0 ms for 192 samples; latency 2.00 ms",
        "  layout       2 stages x 4 replicas = 8 IPUs",
        "  batch        micro-batch 8 x accumulation 6 x 4 replicas = global batch 192",
        "  memory       recomputation pipeline, 4 checkpoints; optimiser state on chip, sharded "
        "over the",
        "               replicas; no I/O tiles",
        "  margin       5 % of the fullest tile is free; the limit is 600 KiB of 624 KiB",
        "  search       47 batchings forecast, 1 stage worked out exactly",
    ]


def test_the_headline_tells_other_uses_of_memory() -> None:
    text = summary(
        made(
            recomputation="none",
            optimizer_state_off_chip=True,
            replicated_tensor_sharding=False,
            io_tiles=32,
        )
    )
    memory = "recomputation none; optimiser state off chip, not sharded; 32 I/O tiles on each IPU"
    assert line(text, "memory ") == f"  memory       {memory}"


def test_a_stage_is_a_row_with_its_shares_of_cycles_and_of_the_limit() -> None:
    text = summary(made())
    # backward without the recomputation; the bar is half of the slowest's
    assert line(text, "1 blocks.1 ") == (
        "  1 blocks.1               20 1.23 M 2.00 M  25 %  50 %  12 %  12 % ████···· "
        "590 KiB  98 %  0.6    2"
    )
    assert "████████ 400 KiB  67 %" in line(text, "0 (start) ")


def test_a_stage_that_stores_everything_says_so() -> None:
    first, last = made().stages
    text = summary(made(stages=(first, replace(last, stores_everything=True))))
    assert line(text, "1 blocks.1 ").endswith(" 0.6  all")


def test_rounding_noise_is_no_host_transfer() -> None:
    first, last = made().stages
    noisy = replace(last, host_cycles=-2e-10, backward_cycles=0.0, recompute_cycles=0.0)
    text = summary(made(stages=(first, noisy)))
    assert " 100 %   0 %   0 %   0 % " in line(text, "1 blocks.1 ")


def test_where_a_step_goes_is_told_with_shares_of_the_step() -> None:
    text = summary(made())
    assert "Where a step goes: 10.0 ms" in text
    assert line(text, "forward and backward  ").split()[3:7] == ["6.00", "ms", "60", "%"]
    assert line(text, "all-reduce  ").split()[1:5] == ["1.00", "ms", "10", "%"]


def test_the_largest_losses_bind() -> None:
    assert losses_sentence(made()) == (
        "Of a step, 40 % is not forward and backward; most of all waiting for the slowest stage "
        "20 %, all-reduce 10 %, recomputation 5 %."
    )
    few = made(time=(("forward and backward", 0.009), ("all-reduce", 0.001)))
    assert losses_sentence(few) == "Of a step, 10 % is not forward and backward: all-reduce 10 %."


def test_a_step_without_losses_says_so() -> None:
    without = made(time=(("forward and backward", 0.01),))
    assert losses_sentence(without) == "All of a step is forward and backward."


@pytest.mark.parametrize(
    ("kib", "words"),
    [
        ((500, 500), "Memory is tight on no stage: none is within 5 % of the limit of 600 KiB."),
        # 5 % of 600 KiB are 30 KiB
        ((569, 570), "tight on stage 1 (within 5 % of the limit of 600 KiB), not on the other."),
        ((600, 570), "tight on stages 0 and 1 (within 5 % of the limit of 600 KiB)."),
        ((600, 1, 590, 2, 580), "tight on stages 0, 2 and 4 ("),
        ((600, 1, 590, 2, 580), "), not on the other 2."),
    ],
)
def test_stages_close_to_the_limit_are_named(kib: Tuple[int, ...], words: str) -> None:
    stages = tuple(
        stage(str(number), peak_tile_bytes=size * KIB) for number, size in enumerate(kib)
    )
    assert words in memory_sentence(made(stages=stages))


def test_the_fullest_tile_tells_its_largest_terms() -> None:
    words = " ".join(summary(made()).split())
    assert (
        "The fullest tile holds 590 KiB, on stage 1; its largest parts: stashes 100 KiB, code "
        "and vertex state 50 KiB."
    ) in words


def test_a_moved_cut_is_slower_does_not_fit_or_is_no_worse() -> None:
    plan = made()
    not_fitting, slower = plan.moves
    assert move_verdict(plan, not_fitting) == "does not fit: 10 KiB over"
    assert move_verdict(plan, slower) == "slower by 10 %"
    barely = replace(not_fitting, moved_tile_bytes=(390 * KIB, LIMIT + 8))
    assert move_verdict(plan, barely) == "does not fit"
    same = replace(slower, moved_cycles=(4e6, 1e6))
    assert move_verdict(plan, same) == "no worse"
    assert move_verdict(plan, replace(slower, moved_cycles=(3e6, 3e6))) == "faster by 25 %"


def test_a_move_between_stages_that_do_not_set_the_pace_costs_nothing() -> None:
    stages = (stage("", 2e6), stage("blocks.1", 2e6), stage("blocks.2", 4e6))
    move = replace(made().moves[1], cycles=(2e6, 2e6), moved_cycles=(3e6, 1e6))
    plan = made(stages=stages, splits=("blocks.1", "blocks.2"), moves=(move,))
    assert move_verdict(plan, move) == "no worse"
    assert move_verdict(plan, replace(move, moved_cycles=(5e6, 1e6))) == "slower by 25 %"
    relieved = replace(move, cut="blocks.2", cycles=(2e6, 4e6), moved_cycles=(3e6, 3e6))
    assert move_verdict(plan, relieved) == "faster by 25 %"


def test_each_cut_stands_above_its_moves() -> None:
    lines = summary(made()).splitlines()
    at = next(number for number, each in enumerate(lines) if each.startswith("  0|1 blocks.1"))
    assert [re.sub(" +", " ", each) for each in lines[at : at + 3]] == [
        " 0|1 blocks.1 4.00 M 2.00 M 400 KiB 590 KiB as planned",
        " -> blocks.0.bn2 3.00 M 3.00 M 390 KiB 610 KiB does not fit: 10 KiB over",
        " -> blocks.1.bn1 4.40 M 1.60 M 410 KiB 570 KiB slower by 10 %",
    ]


def test_other_plans_are_compared_with_this_one() -> None:
    text = summary(made())
    runners_up, front = text.split("\n\n")[-2:]
    (row,) = runners_up.splitlines()[2:]
    assert " ".join(row.split()) == "18.2 k -5 % 8 % 4 x 2 4 x 6 pipeline"
    rows = front.splitlines()[2:]
    assert [row.split()[2:4] for row in (rows[0], rows[2])] == [["+1", "%"], ["-10", "%"]]
    assert [row.endswith("this plan") for row in rows] == [False, True, False]
    assert "same" in rows[1]


def test_the_same_batching_with_another_use_of_memory_is_another_plan() -> None:
    plan = made()
    assert [is_this_plan(plan, each) for each in plan.front] == [False, True, False]
    assert not is_this_plan(plan, replace(plan.front[1], splits=("blocks.2",)))


def test_a_plan_of_one_stage_has_no_cuts_and_maybe_nothing_beside_it() -> None:
    text = summary(made(stages=(stage(""),), splits=(), moves=(), runners_up=(), front=()))
    assert "1 stage x 4 replicas = 4 IPUs" in text
    assert "Cuts" not in text
    assert "Runners-up" not in text
    assert "margin:" not in text


def test_inference_has_no_optimiser_and_stores_nothing_for_later() -> None:
    inferring = replace(
        stage(""), backward_cycles=0.0, recompute_cycles=0.0, stored=(), stores_everything=True
    )
    plan = made(
        mode="inference",
        objective="latency",
        stages=(inferring,),
        splits=(),
        moves=(),
        gradient_accumulation=1,
        replicas=1,
        global_batch=8,
    )
    text = summary(plan)
    assert text.startswith("Plan for inference on IPU-POD16: least latency – simulated")
    assert line(text, "batch ") == "  batch        micro-batch 8 = global batch 8"
    assert line(text, "memory ") == "  memory       no I/O tiles"
    assert line(text, "0 (start)").endswith(" 0.6    –")


NAMES = st.from_regex(r"[a-z_]{1,30}(\.[a-z0-9_]{1,30}){0,4}", fullmatch=True)
SECONDS = st.floats(0, 1e4)


@st.composite
def plans(draw_value: st.DrawFn) -> Plan:
    """Plans of any size, with figures as they come."""
    cycles = st.floats(0, 1e10)
    tile_bytes = st.integers(0, 2**21)
    names = draw_value(st.lists(NAMES, max_size=15, unique=True))
    stages = tuple(
        replace(
            stage(name, draw_value(cycles), draw_value(tile_bytes)),
            layers=draw_value(st.integers(0, 9999)),
            parameters=draw_value(st.integers(0, 10**11)),
            proportion=draw_value(st.floats(0, 1)),
            largest_terms=((draw_value(NAMES), draw_value(tile_bytes)),),
        )
        for name in ("", *names)
    )
    moves = tuple(
        CutMove(
            cut=name,
            moved_to=draw_value(NAMES),
            cycles=(draw_value(cycles), draw_value(cycles)),
            moved_cycles=(draw_value(cycles), draw_value(cycles)),
            tile_bytes=(draw_value(tile_bytes), draw_value(tile_bytes)),
            moved_tile_bytes=(draw_value(tile_bytes), draw_value(tile_bytes)),
            fits=draw_value(st.booleans()),
        )
        for name in names
    )
    return made(
        stages=stages,
        splits=tuple(names),
        moves=moves,
        throughput_samples_per_s=draw_value(st.one_of(SECONDS, st.just(math.inf))),
        step_time_s=draw_value(SECONDS),
        latency_s=draw_value(SECONDS),
        time=tuple((name, draw_value(SECONDS)) for name, _ in made().time),
        gradient_accumulation=draw_value(st.integers(1, 10**6)),
    )


@settings(max_examples=40, deadline=None)
@given(plans())
def test_any_plan_has_a_summary_of_at_most_100_columns_that_says_simulated(plan: Plan) -> None:
    text = summary(plan)
    assert max(map(len, text.splitlines())) <= 100
    assert "simulated" in text.splitlines()[0]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40))
def test_lines_never_part_a_number_from_its_unit(sizes: List[int]) -> None:
    lines = wrapped(", ".join(f"all-reduce {size} KiB" for size in sizes), "> ", "  ")
    assert all(each.startswith("> " if number == 0 else "  ") for number, each in enumerate(lines))
    assert max(map(len, lines)) <= 100
    found = re.findall(r"all-reduce|\d+ KiB", "\n".join(lines))
    assert found[1::2] == [f"{size} KiB" for size in sizes]


# ---- no plan


def misfit(*levers: Lever) -> Misfit:
    """100 KiB too much on a tile."""
    terms = (Term("stashes", 500 * KIB, True), Term("gradients of blocks.3", 200 * KIB, False))
    return Misfit(3, 17, 700 * KIB, LIMIT, terms, levers)


def test_a_refusal_tells_what_does_not_fit_its_terms_and_the_nearest_changes() -> None:
    text = refusal(
        misfit(Lever("margin 0.05 -> 0", -KIB, True), Lever("recomputation", 150 * KIB, True))
    )
    assert text.startswith("No plan fits – simulated\n")
    assert (
        "the most frugal one: IPU 3, tile 17 needs 700 KiB of 600 KiB tile memory (100 KiB too "
        "much)"
    ) in text
    assert line(text, "stashes").split()[1:5] == ["500", "KiB", "71", "%"]
    # a plan that was found under a wider limit may use more than the most frugal one
    assert line(text, "margin") == "  margin 0.05 -> 0: then it fits"
    assert line(text, "recomputation") == "  recomputation: saves 150 KiB, then it fits"


def test_a_refusal_without_changes_says_what_to_do() -> None:
    text = refusal(misfit())
    assert "No single change of the request makes a plan fit: try a system" in text
    assert "Nearest" not in text


def test_a_refusal_of_long_words_keeps_to_100_columns() -> None:
    long = misfit(Lever("other splits " * 12, 150 * KIB, True))
    term = Term("temporaries of a.very.long.name" * 5, 700 * KIB, False)
    text = refusal(replace(long, terms=(term,), demand_bytes=7_000_000_000))
    assert max(map(len, text.splitlines())) <= 100


# ---- JSON


def objects(content: Any) -> List[Dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(content, dict):
        return [content, *(found for each in content.values() for found in objects(each))]
    if isinstance(content, list):
        return [found for each in content for found in objects(each)]
    return []


def fields(kind: Any) -> List[str]:
    return sorted(field.name for field in dataclasses.fields(kind))


def test_json_holds_every_field_of_the_plan() -> None:
    content = json.loads(as_json_text(made(), "runs/b0.yml"))
    assert content["simulated"] is True
    assert content["config"] == "runs/b0.yml"
    assert sorted(content) == sorted([*fields(Plan), "simulated", "config", "ipus"])
    assert sorted(content["stages"][0]) == sorted([*fields(PlannedStage), "cycles"])
    assert sorted(content["moves"][0]) == fields(CutMove)
    assert sorted(content["front"][0]) == fields(Alternative)
    assert sorted(content["runners_up"][0]) == fields(Alternative)


def test_json_keeps_what_the_plan_says() -> None:
    plan = made()
    content = json.loads(as_json_text(plan, ""))
    assert content["ipus"] == 8
    for name in ("mode", "micro_batch", "step_time_s", "margin", "worked_out", "recomputation"):
        assert content[name] == getattr(plan, name)
    for name in ("splits", "checkpoints", "proportions"):
        assert content[name] == list(getattr(plan, name))
    assert [(each["name"], each["seconds"]) for each in content["time"]] == list(plan.time)
    assert content["stages"][1]["cycles"] == 2_000_000
    assert content["stages"][1]["largest_terms"][0] == {"name": "stashes", "tile_bytes": 102400}
    assert content["moves"][0]["moved_tile_bytes"] == [390 * KIB, 610 * KIB]
    assert content["front"][2] == json.loads(json.dumps(dataclasses.asdict(plan.front[2])))


def test_json_keys_are_sorted_and_documented() -> None:
    documentation = json_text.__doc__ or ""
    for each in objects(json.loads(as_json_text(made(), ""))):
        assert list(each) == sorted(each)
        for key in each:
            assert f"`{key}`" in documentation, key


def test_json_has_whole_cycles_and_null_for_what_is_not_finite() -> None:
    first, last = made().stages
    plan = made(stages=(replace(first, forward_cycles=10.6), last), latency_s=math.inf)
    content = json.loads(as_json_text(plan, ""))
    assert content["stages"][0]["forward_cycles"] == 11
    assert content["latency_s"] is None


# ---- picture


def bars(axes: Axes) -> Dict[str, List[float]]:
    """Widths of a panel's bars, by what they stand for."""
    return {
        str(each.get_label()): [patch.get_width() for patch in each]
        for each in axes.containers
        if isinstance(each, BarContainer)
    }


def upright(axes: Axes) -> Dict[str, float]:
    """Where a panel's upright lines stand, by name."""
    return {
        str(each.get_label()): float(each.get_xdata()[0])
        for each in axes.get_lines()
        if len(each.get_xdata()) == 2
    }


@pytest.mark.parametrize("count", STAGES)
def test_a_picture_has_a_bar_of_cycles_and_one_of_memory_for_each_stage(count: int) -> None:
    plan = staged(count)
    cycles, memory, _ = figure(plan).axes
    parts = bars(cycles)
    assert list(parts) == ["forward", "backward", "recomputation", "host"]
    for number, each in enumerate(plan.stages):
        # million cycles; backward without recomputation
        assert parts["backward"][number] == pytest.approx(
            (each.backward_cycles - each.recompute_cycles) / 1e6
        )
        assert sum(part[number] for part in parts.values()) == pytest.approx(each.cycles / 1e6)
        assert sum(part[number] for part in bars(memory).values()) == pytest.approx(
            each.peak_tile_bytes / KIB
        )
    assert bars(memory)["always live"][0] == pytest.approx(200)
    labels = [label.get_text() for label in cycles.get_yticklabels()]
    assert len(labels) == count
    assert labels[0].split() == ["(start)", "0"]


def test_bars_of_a_stage_stand_end_to_end() -> None:
    for axes in figure(made()).axes[:2]:
        ends = [0.0, 0.0]
        for container in axes.containers:
            assert [patch.get_x() for patch in container] == pytest.approx(ends)
            ends = [end + patch.get_width() for end, patch in zip(ends, container)]


def test_a_picture_shows_the_limit_the_tile_and_the_slowest_stage() -> None:
    cycles, memory, throughput = figure(made()).axes
    assert upright(cycles) == {"slowest stage": pytest.approx(4.0)}
    assert upright(memory) == {"limit": 600.0, "a tile's memory": 624.0}
    assert memory.get_xlim()[1] > 624
    assert upright(throughput)["margin asked for"] == pytest.approx(100 * (1 - 600 / 624))


def test_a_picture_shows_this_plan_the_front_and_the_runners_up() -> None:
    plan = made()
    points = {
        str(each.get_label()): list(zip(each.get_xdata(), each.get_ydata()))
        for each in figure(plan).axes[2].get_lines()
    }
    assert points["this plan"] == [(5.0, 19200.0)]
    assert points["best for its margin"] == [(1.0, 19392.0), (20.0, 17280.0)]
    assert points["runners-up"] == [(8.0, 18240.0)]
    texts = [each.get_text() for each in figure(plan).axes[2].texts]
    assert texts == ["4 x 2 IPUs, micro-batch 4"]


def test_names_of_plans_that_are_close_stand_apart() -> None:
    close = tuple(
        alternative(18000.0 + micro_batch, 0.05, micro_batch=micro_batch) for micro_batch in (1, 2)
    )
    drawn = figure(made(runners_up=close, front=()))
    drawn.draw_without_rendering()
    lower, upper = sorted(each.get_window_extent().y0 for each in drawn.axes[2].texts)
    assert upper - lower > 8 * drawn.dpi / 72, "less than the size of the letters"


def test_a_plan_without_others_is_drawn_alone() -> None:
    throughput = figure(made(front=(), runners_up=())).axes[2]
    labels = [str(each.get_label()) for each in throughput.get_lines()]
    assert labels == ["margin asked for", "this plan"]


def test_small_differences_in_throughput_look_small() -> None:
    plan = made(runners_up=(), front=(alternative(19190.0, 0.2),))
    low, high = figure(plan).axes[2].get_ylim()
    assert low < 0.9 * 19200 < 19200 < high


def test_inference_has_no_bars_for_what_does_not_happen() -> None:
    forward = replace(stage(""), backward_cycles=0.0, recompute_cycles=0.0)
    plan = made(mode="inference", stages=(forward,), splits=(), moves=())
    assert list(bars(figure(plan).axes[0])) == ["forward", "host"]


def test_a_picture_says_simulated_and_names_network_and_system() -> None:
    drawn = figure(made(), "b0-g16-gn", "my pod")
    assert drawn._suptitle.get_text() == (
        "b0-g16-gn: plan for training on my pod, most throughput – simulated"
    )
    assert drawn._supxlabel.get_text().endswith("All figures are simulated.")
    assert figure(made())._suptitle.get_text().startswith("plan for training on IPU-POD16, ")


@pytest.mark.parametrize("count", [1, 16])
def test_the_file_is_a_png(count: int, tmp_path: Path) -> None:
    path = draw(staged(count), tmp_path / "new" / "plan.png", "b0")
    assert path == tmp_path / "new" / "plan.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
