"""From the cost of every operation to the time of a step.

What each stage asks for is summed up first (`demands`); schedule, links, host and replicas turn the
demands of all stages into time (`step_times`). Demands of one stage hold whatever the others are,
so a search over cuts works each out once.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, Mapping, Sequence, Tuple

from app.ipu_model.calibration import SystemCalibration
from app.ipu_model.collectives import (
    all_gather_s,
    all_reduce_s,
    global_sync_cycles,
    host_sharing,
    host_transfer_s,
    inter_ipu_copy_cycles,
    reduce_scatter_s,
    streaming_s,
)
from app.ipu_model.cost.cost import Cost
from app.ipu_model.graph import Graph, Op, Phase, Role
from app.ipu_model.pipeline import (
    StageWork,
    Timeline,
    latency_s,
    micro_batch_time_s,
    schedule,
    step_time_s,
)
from app.ipu_model.program import Execution
from app.ipu_model.target import Target

__all__ = ["StageDemand", "StepTimes", "demands", "host_transfers_s", "step_times"]


@dataclass(frozen=True)
class StageDemand:
    """What one stage asks for: cycles of a micro-batch and of an update, bytes that it moves.

    Cycles are those of operations alone. `hop_bytes` go to the next stage for each micro-batch,
    `host_bytes` are its transfers with the host for each micro-batch, one entry for each tensor.
    Once per weight update `reduced_bytes` of gradients go through the replicas, `gathered_bytes`
    of weights come back if state is sharded, and `streamed_bytes` are fetched and written back.
    """

    stage: int
    ipu: int
    forward_cycles: float = 0.0
    backward_cycles: float = 0.0
    update_cycles: float = 0.0
    hop_bytes: int = 0
    host_bytes: Tuple[int, ...] = ()
    reduced_bytes: int = 0
    gathered_bytes: int = 0
    streamed_bytes: int = 0


@dataclass(frozen=True)
class StepTimes:
    """Times of a step, in seconds, with the schedule behind them.

    `step_time_s` is that of one weight update (training) or of one micro-batch of every replica in
    steady state (inference); `latency_s` the way of one micro-batch from host to host.
    """

    timeline: Timeline
    step_time_s: float
    latency_s: float
    all_reduce_s: float
    host_s: float
    throughput_samples_per_s: float


def demands(
    lowered: Graph, costs: Mapping[int, Cost], execution: Execution
) -> Tuple[StageDemand, ...]:
    """The demand of every stage of a lowered graph, in order."""
    sums = [_Sums(stage, execution) for stage in range(lowered.stages)]
    for op in lowered.ops:
        sums[op.stage].take(op, costs[op.id], lowered)
    return tuple(each.demand() for each in sums)


@dataclass
class _Sums:
    """A demand in the making."""

    stage: int
    execution: Execution
    ipu: int = -1
    cycles: Dict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    moved: Dict[str, int] = field(default_factory=lambda: defaultdict(int))
    host_bytes: Tuple[int, ...] = ()

    def take(self, op: Op, cost: Cost, graph: Graph) -> None:
        """Count an operation of the stage."""
        self.ipu = op.ipu if self.ipu < 0 else self.ipu
        self.cycles[op.phase] += cost.cycles
        if op.kind in ("host_load", "host_store"):
            self.host_bytes += (graph.tensors[(*op.inputs, *op.outputs)[0]].bytes,)
        elif op.kind == "inter_ipu_copy" and op.phase is Phase.FORWARD:
            if op.attributes.get("to_stage") == self.stage + 1:
                self.moved["hop"] += graph.tensors[op.inputs[0]].bytes
        elif op.kind == "all_reduce" and op.phase is Phase.UPDATE:
            self.moved["reduced"] += graph.tensors[op.inputs[0]].bytes
        elif op.kind == "update" and op.phase is Phase.UPDATE:
            self.moved["gathered"] += graph.tensors[op.inputs[0]].bytes
            self.moved["streamed"] += self._streamed_bytes(op, graph)

    def _streamed_bytes(self, op: Op, graph: Graph) -> int:
        """What is kept off chip of an update's parameter and state."""
        parameter, *others = graph.operands(op)
        found = parameter.bytes if self.execution.weights_off_chip else 0
        if self.execution.state_off_chip:
            states = [t for t in others if t.role is Role.STATE and t.name.startswith("state")]
            sharded = self.execution.replicated_tensor_sharding
            shares = self.execution.replicas if sharded else 1
            found += sum(tensor.bytes // shares for tensor in states)
        return found

    def demand(self) -> StageDemand:
        """All that was counted."""
        return StageDemand(
            stage=self.stage,
            ipu=self.stage if self.ipu < 0 else self.ipu,
            forward_cycles=self.cycles[Phase.FORWARD],
            backward_cycles=self.cycles[Phase.RECOMPUTE] + self.cycles[Phase.BACKWARD],
            update_cycles=self.cycles[Phase.UPDATE],
            hop_bytes=self.moved["hop"],
            host_bytes=self.host_bytes,
            reduced_bytes=self.moved["reduced"],
            gathered_bytes=self.moved["gathered"],
            streamed_bytes=self.moved["streamed"],
        )


def step_times(
    stages: Sequence[StageDemand],
    execution: Execution,
    target: Target,
    constants: SystemCalibration,
) -> StepTimes:
    """The time of a step, of the demands of all its stages.

    Raises:
        ProgramError: too few micro-batches for so many stages.
    """
    step = _Step(stages, execution, target, constants)
    timeline = step.timeline()
    reduce_s, host_s = step.all_reduce_s(), step.host_s()
    step_s = step.step_s(timeline, reduce_s, host_s)
    samples = execution.micro_batch * execution.replicas * execution.gradient_accumulation
    return StepTimes(
        timeline=timeline,
        step_time_s=step_s,
        latency_s=latency_s(timeline, target.clock_hz, step.hidden_host_s()),
        all_reduce_s=reduce_s,
        host_s=host_s,
        throughput_samples_per_s=samples / step_s,
    )


def host_transfers_s(
    demand: StageDemand, replicas: int, stages: int, target: Target, constants: SystemCalibration
) -> float:
    """Seconds of a stage's transfers with the host for one micro-batch."""
    sharing = host_sharing(replicas, stages, target)
    return sum(host_transfer_s(size, target, sharing, constants) for size in demand.host_bytes)


@dataclass(frozen=True)
class _Step:
    stages: Sequence[StageDemand]
    execution: Execution
    target: Target
    constants: SystemCalibration

    def timeline(self) -> Timeline:
        """The schedule of one replica."""
        works = [
            StageWork(
                stage=each.stage,
                ipu=each.ipu,
                forward_cycles=each.forward_cycles + self._visible_host_cycles(each),
                backward_cycles=each.backward_cycles,
                update_cycles=each.update_cycles + self._streaming_cycles(each),
            )
            for each in self.stages
        ]
        hops = [
            inter_ipu_copy_cycles(one.hop_bytes, self.target, one.ipu, other.ipu, self.constants)
            for one, other in zip(self.stages, self.stages[1:])
        ]
        several = len(self.stages) > 1
        sync = global_sync_cycles(self.target, len(self.stages), self.constants) if several else 0.0
        return schedule(works, self.execution, hops, sync)

    def _visible_host_cycles(self, demand: StageDemand) -> float:
        return 0.0 if self.execution.overlap_io else self._host_s(demand) * self.target.clock_hz

    def _host_s(self, demand: StageDemand) -> float:
        place = (self.execution.replicas, len(self.stages), self.target)
        return host_transfers_s(demand, *place, self.constants)

    def _streaming_cycles(self, demand: StageDemand) -> float:
        """Cycles of fetching and writing back what a stage keeps off chip, per weight update."""
        if not demand.streamed_bytes:
            return 0.0
        seconds = streaming_s(2 * demand.streamed_bytes, self.target, self.constants)
        return seconds * self.target.clock_hz

    def step_s(self, timeline: Timeline, reduce_s: float, host_s: float) -> float:
        """Seconds of a step."""
        execution, clock_hz = self.execution, self.target.clock_hz
        overlapped_s = host_s if execution.overlap_io else 0.0  # others are in the stages' cycles
        if execution.training:
            return step_time_s(timeline, clock_hz, reduce_s, overlapped_s, execution.overlap_io)
        per_micro_batch_s = overlapped_s / execution.device_iterations
        return micro_batch_time_s(timeline, clock_hz, per_micro_batch_s, execution.overlap_io)

    def hidden_host_s(self) -> float:
        """Seconds of one micro-batch's own transfers that its stages' cycles leave out."""
        return sum(map(self._host_s, self.stages)) if self.execution.overlap_io else 0.0

    def host_s(self) -> float:
        """Seconds of all host transfers of a step, on the stage that has most."""
        execution = self.execution
        training = execution.training
        repeats = execution.gradient_accumulation if training else execution.device_iterations
        return repeats * max(map(self._host_s, self.stages), default=0.0)

    def all_reduce_s(self) -> float:
        """Seconds of the gradients' way through the replicas, merged into one call per IPU; where
        state is sharded, replicas gather the weights that they updated."""
        reduced: Dict[int, int] = defaultdict(int)
        gathered: Dict[int, int] = defaultdict(int)
        for each in self.stages:
            reduced[each.ipu] += each.reduced_bytes
            gathered[each.ipu] += each.gathered_bytes
        if not any(reduced.values()):
            return 0.0
        place = (self.execution.replicas, len(reduced), self.target, 1, self.constants)
        if self.execution.replicated_tensor_sharding:
            scattered_s = reduce_scatter_s(max(reduced.values()), *place)
            return scattered_s + all_gather_s(max(gathered.values()), *place)
        return all_reduce_s(max(reduced.values()), *place)
