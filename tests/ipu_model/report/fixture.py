"""Simulations that no simulator made: plausible ones to look at, and odd ones."""

from dataclasses import replace
from typing import Dict, List, Tuple

from app.ipu_model.cost.cost import Cost
from app.ipu_model.memory import IpuMemory, Moment, Term
from app.ipu_model.pipeline import Slot, Timeline
from app.ipu_model.simulation import IpuResult, Lever, Misfit, OpCost, Simulation

TILES = 1472
LIMIT_BYTES = 638976
REGION0_BYTES = 212992
CLOCK_HZ = 1.325e9

Row = Tuple[str, str, str, int, Tuple[int, ...], int]
"""Kind, label, scope, stage, result shape and multiply-adds."""

# expansion, channels, units, field of EfficientNet-B0, and the stage each block runs on
BLOCKS = (
    (1, 16, 1, 112, 0),
    (6, 24, 2, 56, 0),
    (6, 40, 2, 28, 1),
    (6, 80, 3, 14, 1),
    (6, 112, 3, 14, 2),
    (6, 192, 4, 7, 3),
    (6, 320, 1, 7, 3),
)


def _forward_ops() -> List[Row]:
    found: List[Row] = [("conv", "conv", "conv_stem", 0, (2, 32, 112, 112), 2 * 32 * 27 * 112**2)]
    narrow = 32
    for block, (expansion, channels, units, field, stage) in enumerate(BLOCKS):
        for unit in range(units):
            name, wide = f"blocks.{block}.{unit}", narrow * expansion
            shape = (2, wide, field, field)
            pixels = 2 * field**2
            found += [
                ("conv", "conv", f"{name}.conv_pw", stage, shape, pixels * narrow * wide),
                ("group_norm", "group_norm", f"{name}.bn1", stage, shape, 0),
                ("unary", "unary.silu", f"{name}.act1", stage, shape, 0),
                ("conv", "conv", f"{name}.conv_dw", stage, shape, pixels * wide * 16 * 9),
                ("group_norm", "group_norm", f"{name}.bn2", stage, shape, 0),
                ("unary", "unary.silu", f"{name}.act2", stage, shape, 0),
                ("reduce", "reduce.mean", f"{name}.se", stage, (2, wide, 1, 1), 0),
                ("conv", "conv", f"{name}.se.conv_reduce", stage, (2, narrow // 4, 1, 1), 0),
                ("conv", "conv", f"{name}.se.conv_expand", stage, (2, wide, 1, 1), 0),
                ("binary", "binary.mul", f"{name}.se", stage, shape, 0),
                (
                    "conv",
                    "conv",
                    f"{name}.conv_pwl",
                    stage,
                    (2, channels, field, field),
                    pixels * wide * channels,
                ),
                (
                    "group_norm",
                    "group_norm",
                    f"{name}.bn3",
                    stage,
                    (2, channels, field, field),
                    0,
                ),
            ]
            narrow = channels
    found += [
        ("conv", "conv", "conv_head", 3, (2, 1280, 7, 7), 2 * 49 * 320 * 1280),
        ("matmul", "matmul", "classifier", 3, (2, 1000), 2 * 1280 * 1000),
        ("softmax", "softmax", "", 3, (2, 1000), 0),
    ]
    return found


def _cost(kind: str, shape: Tuple[int, ...], macs: int) -> Cost:
    elements = shape[0]
    for size in shape[1:]:
        elements *= size
    per_tile = elements / TILES
    return Cost(
        compute_cycles=500 + macs / TILES / 24 + per_tile * 3,
        exchange_cycles=150 + per_tile * (1.2 if macs else 0.4),
        sync_cycles=200.0 * (4 if kind == "conv" else 2),
        flops=2 * macs + elements,
        macs=macs,
        moved_bytes=elements * 2,
        temporary_tile_bytes=3000 + per_tile * (26 if macs else 5),
        compute_sets=4 if kind == "conv" else 2,
    )


def _ops(gradient_accumulation: int) -> Tuple[OpCost, ...]:
    forward = _forward_ops()
    made: List[OpCost] = []

    def add(row: Row, phase: str, repeats: int) -> None:
        kind, label, scope, stage, shape, macs = row
        cost = _cost(kind, shape, macs)
        made.append(
            OpCost(len(made), label, kind, scope, stage, stage, phase, shape, cost, repeats)
        )

    for row in forward:
        add(row, "forward", gradient_accumulation)
    for row in forward:
        if row[3] < 3:
            add(row, "recompute", gradient_accumulation)
    for kind, label, scope, stage, shape, macs in reversed(forward):
        grads = ["data_grad", "weight_grad"] if kind in ("conv", "matmul") else ["grad"]
        for grad in grads:
            name = f"{kind}_{grad}"
            renamed = label.replace(kind, name)
            add((name, renamed, scope, stage, shape, macs), "backward", gradient_accumulation)
    for kind, _, scope, stage, shape, _ in forward:
        if kind in ("conv", "matmul", "group_norm"):
            add(("update", "update", scope, stage, shape[1:2], 0), "update", 1)
    return tuple(made)


def _profile(level_bytes: int, extra_bytes: int) -> Tuple[int, ...]:
    """Low tiles carry more; some hold the small tensors of all layers."""
    return tuple(
        level_bytes
        + int(extra_bytes * (1 - tile / TILES) ** 3)
        + (tile * 7919 % 97) * 120
        + (18000 if tile % 368 == 5 else 0)
        for tile in range(TILES)
    )


def _memory(ipu: int, ops: Tuple[OpCost, ...], squeeze: float) -> IpuMemory:
    here = [op for op in ops if op.ipu == ipu]
    moments: List[Moment] = []
    live = 20000.0
    for op in here:
        if op.phase == "forward":
            live += 30 if ipu < 3 else 900
        elif op.phase == "recompute":
            live += 900
        elif op.phase == "backward":
            live = max(8000.0, live - 600)
        else:
            live = 6000.0
        temporary = int(op.cost.temporary_tile_bytes)
        moments.append(
            Moment(op.op, op.label, op.scope, op.phase, int(live) + temporary, temporary)
        )
    always = int((230000 + 38000 * ipu) * squeeze)
    most = max(moments, key=lambda moment: moment.live_tile_bytes)
    always_live = _profile(always, 30000)
    peak = tuple(
        held + int(most.live_tile_bytes * (0.7 + 0.3 * (1 - tile / TILES)))
        for tile, held in enumerate(always_live)
    )
    tile = max(range(TILES), key=lambda tile: peak[tile])
    code = always // 4
    stash = (3 - ipu) * 28000
    state = always_live[tile] - code - stash - 40000
    not_always = peak[tile] - always_live[tile]
    other = not_always - most.temporary_tile_bytes
    terms = (
        Term("weights, gradients and optimiser state", state, True),
        Term("code, vertex state and exchange code", code, True),
        Term("pipeline stashes", stash, True),
        Term(f"temporaries of {most.label} {most.scope}", most.temporary_tile_bytes, False),
        Term(f"activations of blocks.{ipu}", other * 2 // 3, False),
        Term(f"gradients of blocks.{ipu}", other - other * 2 // 3, False),
        Term("host buffers", 40000, True),
    )
    return IpuMemory(
        ipu=ipu,
        tile=tile,
        peak_tile_bytes=peak[tile],
        always_live_tile_bytes=always_live[tile],
        not_always_live_tile_bytes=not_always,
        code_tile_bytes=code,
        region0_tile_bytes=code + 30000,
        weights_bytes=(2 + 3 * ipu) * 1_000_000,
        stash_bytes=stash * TILES,
        terms=tuple(sorted(terms, key=lambda term: -term.tile_bytes)),
        timeline=tuple(moments),
        tile_always_live_bytes=always_live,
        tile_peak_bytes=peak,
    )


def _timeline(per_ipu: Tuple[IpuResult, ...], accumulation: int) -> Timeline:
    """A grouped pipeline whose cycles are as long as their busiest IPU's work."""
    stages = len(per_ipu)
    work = {
        "forward": [result.cycles_per_micro_batch * 0.3 for result in per_ipu],
        "backward": [result.cycles_per_micro_batch * 0.7 for result in per_ipu],
    }
    slots: List[Slot] = []
    now = 0.0
    marks: Dict[int, float] = {}
    for turn in range(accumulation + 2 * stages - 2):
        begin, end = now, now
        for stage in range(stages):
            at = begin
            for what, first in (("forward", stage), ("backward", 2 * (stages - 1) - stage)):
                if 0 <= turn - first < accumulation:
                    slots.append(Slot(stage, stage, what, turn - first, at, at + work[what][stage]))
                    at += work[what][stage]
            end = max(end, at)
        for stage in range(stages):
            slots.append(Slot(stage, stage, "copy", -1, end, end + 4000))
        marks[turn] = now
        now = end + 4000
    fill = marks.get(2 * stages - 2, 0.0)
    drain_from = marks.get(accumulation, now)
    for stage in range(stages):
        slots.append(Slot(stage, stage, "all-reduce", -1, now, now + 250000))
        slots.append(Slot(stage, stage, "update", -1, now + 250000, now + 250000 + 40000))
    total = now + 290000
    busy = sum(slot.end_cycles - slot.start_cycles for slot in slots)
    return Timeline(
        cycles=total,
        fill_cycles=fill,
        steady_cycles=drain_from - fill,
        drain_cycles=now - drain_from,
        update_cycles=40000,
        latency_cycles=sum(work["forward"]),
        bubble_fraction=1 - busy / (total * stages),
        slots=tuple(slots),
    )


def efficientnet(gradient_accumulation: int = 24, squeeze: float = 1.0) -> Simulation:
    """EfficientNet-B0-like training in four stages; `squeeze` scales always-live memory."""
    ops = _ops(gradient_accumulation)
    per_ipu = []
    for ipu in range(4):
        once = [op.cost for op in ops if op.ipu == ipu and op.phase != "update"]
        per_ipu.append(
            IpuResult(
                ipu=ipu,
                stage=ipu,
                compute_cycles=sum(cost.compute_cycles for cost in once),
                exchange_cycles=sum(cost.exchange_cycles for cost in once),
                sync_cycles=sum(cost.sync_cycles for cost in once),
                memory=_memory(ipu, ops, squeeze),
            )
        )
    timeline = _timeline(tuple(per_ipu), gradient_accumulation)
    step_time_s = timeline.cycles / CLOCK_HZ
    batch = 2 * gradient_accumulation * 4
    return Simulation(
        name="g16_efficientnet_b0_pod16",
        system="IPU-POD16",
        mode="training",
        throughput_samples_per_s=batch / step_time_s,
        step_time_s=step_time_s,
        latency_s=timeline.latency_cycles / CLOCK_HZ,
        global_batch_size=batch,
        ipus=16,
        replicas=4,
        stages=4,
        clock_hz=CLOCK_HZ,
        tile_memory_bytes=LIMIT_BYTES,
        parameters=9_478_236,
        macs_per_sample=sum(row[-1] for row in _forward_ops()) // 2,
        per_ipu=tuple(per_ipu),
        timeline=timeline,
        all_reduce_s=250000 / CLOCK_HZ,
        host_s=0.0,
        ops=ops,
        misfit=None,
        calibration_name="mk2",
        sdk="3.3.0",
        region0_bytes=REGION0_BYTES,
    )


def misfitting() -> Simulation:
    """The same with half as much again that is always live: the last IPU is over its limit."""
    full = efficientnet(squeeze=1.6)
    memory = full.per_ipu[3].memory
    return replace(
        full,
        misfit=Misfit(
            ipu=3,
            tile=memory.tile,
            demand_bytes=memory.peak_tile_bytes,
            bound_bytes=LIMIT_BYTES,
            terms=memory.terms,
            levers=(
                Lever("recompute blocks.6", 61440, False),
                Lever("batching.micro_batch 2 -> 1", 139264, True),
            ),
        ),
    )


def tiny() -> Simulation:
    """One IPU, one stage, one operation, one tile, and no time at all."""
    op = OpCost(0, "view", "view", "", 0, 0, "forward", (), Cost(), 1)
    memory = IpuMemory(0, 0, 0, 0, 0, 0, 0, 0, 0, (), (), (0,), (0,))
    return Simulation(
        name="tiny",
        system="one IPU",
        mode="inference",
        throughput_samples_per_s=0.0,
        step_time_s=0.0,
        latency_s=0.0,
        global_batch_size=1,
        ipus=1,
        replicas=1,
        stages=1,
        clock_hz=CLOCK_HZ,
        tile_memory_bytes=LIMIT_BYTES,
        parameters=0,
        macs_per_sample=0,
        per_ipu=(IpuResult(0, 0, 0.0, 0.0, 0.0, memory),),
        timeline=Timeline(0, 0, 0, 0, 0, 0, 0.0, ()),
        all_reduce_s=0.0,
        host_s=0.0,
        ops=(op,),
        misfit=None,
        calibration_name="mk2",
        sdk="3.3.0",
    )
