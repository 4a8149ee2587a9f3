"""A program on a system, worked out: cycles, bytes, time and fit.

The parts are put together here: lowering, a cost for every operation, memory, schedule, transfers.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from app.ipu_model.calibration import Calibration, calibration
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
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.convolution.planning import plan_many
from app.ipu_model.cost.convolution.rule import PLANNED_KINDS, request
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.rules import op_cost
from app.ipu_model.flops import macs
from app.ipu_model.graph import Graph, Op, Phase, Role
from app.ipu_model.lowering import lower
from app.ipu_model.memory import IpuMemory, Lever, Misfit, levers, measure, misfit
from app.ipu_model.pipeline import (
    StageWork,
    Timeline,
    latency_s,
    micro_batch_time_s,
    schedule,
    step_time_s,
    with_all_reduce,
)
from app.ipu_model.program import Execution, ProgramError
from app.ipu_model.target import Target

__all__ = [
    "IpuResult",
    "Lever",
    "Misfit",
    "OpCost",
    "Simulation",
    "memory_of",
    "simulate",
    "throughput_samples_per_s",
]

Retrace = Callable[[int], Graph]
"""The forward graph of another micro-batch."""


@dataclass(frozen=True)
class OpCost:
    """One operation with its cost; it runs `repeats` times per weight update on each replica."""

    op: int
    label: str
    kind: str
    scope: str
    stage: int
    ipu: int
    phase: str
    result_shape: Tuple[int, ...]
    cost: Cost
    repeats: int


@dataclass(frozen=True)
class IpuResult:
    """One IPU of a replica; cycles are those of one micro-batch, forward and backward."""

    ipu: int
    stage: int
    compute_cycles: float
    exchange_cycles: float
    sync_cycles: float
    memory: IpuMemory

    @property
    def cycles_per_micro_batch(self) -> float:
        """All cycles of one micro-batch."""
        return self.compute_cycles + self.exchange_cycles + self.sync_cycles


@dataclass(frozen=True)
class Simulation:
    """All that the IPU Model says of a program; every figure is simulated.

    `step_time_s` is the time of one weight update (training) or of one micro-batch of every
    replica in steady state (inference); `latency_s` the way of one micro-batch from host to host.
    `region0_bytes` is the size of a tile's executable region, 0 where it is not known.
    """

    name: str
    system: str
    mode: str
    throughput_samples_per_s: float
    step_time_s: float
    latency_s: float
    global_batch_size: int
    ipus: int
    replicas: int
    stages: int
    clock_hz: float
    tile_memory_bytes: int
    parameters: int
    macs_per_sample: int
    per_ipu: Tuple[IpuResult, ...]
    timeline: Timeline
    all_reduce_s: float
    host_s: float
    ops: Tuple[OpCost, ...]
    misfit: Optional[Misfit]
    calibration_name: str
    sdk: str
    region0_bytes: int = 0

    @property
    def fits(self) -> bool:
        """Whether every tile of every IPU holds its share."""
        return self.misfit is None

    @property
    def peak_tile_bytes(self) -> int:
        """Bytes of the fullest tile of all IPUs."""
        return max(ipu.memory.peak_tile_bytes for ipu in self.per_ipu)


def simulate(
    forward: Graph,
    execution: Execution,
    target: Target,
    name: str = "program",
    retrace: Optional[Retrace] = None,
    constants: Optional[Calibration] = None,
) -> Simulation:
    """Work out what running a traced graph costs; a misfit is a result, not an error.

    `retrace` lets a misfit's levers try smaller micro-batches. `constants` are those of the
    target's chip unless given.

    Raises:
        MissingRule: an operation that no gradient or cost rule knows.
        GraphError, ProgramError: graph and execution contradict each other, or the target.
    """
    machine = _Machine(target, constants or calibration(target.calibration_name), execution)
    lowered = lower(forward, execution)
    _require_ipus(lowered, execution, target)
    costs = machine.costs(lowered)
    memories = machine.memories(lowered, costs)
    found = misfit(memories, target.tile_memory_bytes, target.region0_tile_bytes)
    if found is not None:

        def try_change(changed: Execution) -> Tuple[IpuMemory, ...]:
            return _memories_of(forward, execution, changed, machine, retrace)

        bounds = (target.tile_memory_bytes, target.region0_tile_bytes)
        found = replace(found, levers=levers(try_change, execution, found, *bounds))
    return _Result(forward, lowered, costs, machine).simulation(name, memories, found)


def memory_of(
    forward: Graph, execution: Execution, target: Target
) -> Tuple[Tuple[IpuMemory, ...], Optional[Misfit]]:
    """Memory alone, and the misfit if it does not fit, without levers: for searches over sizes.

    Raises:
        as `simulate`.
    """
    machine = _Machine(target, calibration(target.calibration_name), execution)
    lowered = lower(forward, execution)
    _require_ipus(lowered, execution, target)
    memories = machine.memories(lowered, machine.costs(lowered))
    return memories, misfit(memories, target.tile_memory_bytes, target.region0_tile_bytes)


def throughput_samples_per_s(
    lowered: Graph, execution: Execution, target: Target, constants: Calibration
) -> float:
    """Time alone, of a lowered graph: what calibration asks for many sets of constants.

    Raises:
        ProgramError: it contradicts the execution or the target.
    """
    _require_ipus(lowered, execution, target)
    machine = _Machine(target, constants, execution)
    result = _Result(lowered, lowered, machine.costs(lowered), machine)
    timeline = result.timeline()
    step_s = result.step_s(timeline, result.all_reduce_s(), result.host_s())
    return result.samples / step_s


def _require_ipus(lowered: Graph, execution: Execution, target: Target) -> None:
    ipus = 1 + max((op.ipu for op in lowered.ops), default=0)
    needed = execution.replicas * ipus
    if needed > target.ipus:
        raise ProgramError(
            f"replicas: {execution.replicas} of {ipus} IPUs need {needed} IPUs, {target.name} has "
            f"{target.ipus}; use fewer replicas or stages, or a larger system"
        )


def _memories_of(
    forward: Graph,
    execution: Execution,
    changed: Execution,
    machine: "_Machine",
    retrace: Optional[Retrace],
) -> Tuple[IpuMemory, ...]:
    if changed.micro_batch != execution.micro_batch:
        if retrace is None:
            raise ProgramError("micro_batch: the program cannot be traced for another one")
        forward = retrace(changed.micro_batch)
    other = replace(machine, execution=changed)
    lowered = lower(forward, changed)
    return other.memories(lowered, other.costs(lowered))


@dataclass(frozen=True)
class _Machine:
    """A target with its constants, running one way."""

    target: Target
    constants: Calibration
    execution: Execution

    def context(self, ipu: int) -> CostContext:
        """What cost rules see of one IPU."""
        execution = self.execution
        return CostContext(
            target=self.target.without_io_tiles(execution.io_tiles),
            calibration=self.constants,
            half_partials=execution.half_partials,
            available_memory_proportion=execution.proportion(ipu),
            sdk=execution.sdk,
            training=execution.training,
            stable_norm=execution.stable_norm,
        )

    def costs(self, lowered: Graph) -> Dict[int, Cost]:
        """The cost of every operation, by its id."""
        contexts = {ipu: self.context(ipu) for ipu in {op.ipu for op in lowered.ops}}
        planned = (op for op in lowered.ops if op.kind in PLANNED_KINDS)
        plan_many([request(lowered, op, contexts[op.ipu]) for op in planned])
        scale = self.constants.sdk.scale(self.execution.sdk)
        return {op.id: op_cost(lowered, op, contexts[op.ipu]).scaled(scale) for op in lowered.ops}

    def memories(self, lowered: Graph, costs: Mapping[int, Cost]) -> Tuple[IpuMemory, ...]:
        """Bytes on every tile of every IPU of a replica."""
        return measure(
            lowered,
            costs,
            self.execution,
            self.target.without_io_tiles(self.execution.io_tiles),
            self.target.region0_tile_bytes,
            self.constants,
        )


@dataclass(frozen=True)
class _Result:
    """What follows from the costs of a lowered graph."""

    forward: Graph
    lowered: Graph
    costs: Mapping[int, Cost]
    machine: _Machine

    def simulation(
        self, name: str, memories: Tuple[IpuMemory, ...], found: Optional[Misfit]
    ) -> Simulation:
        """Everything put together."""
        execution, target = self.machine.execution, self.machine.target
        timeline = self.timeline()
        all_reduce_s, host_s = self.all_reduce_s(), self.host_s()
        step_s = self.step_s(timeline, all_reduce_s, host_s)
        return Simulation(
            name=name,
            system=target.name,
            mode=execution.mode,
            throughput_samples_per_s=self.samples / step_s,
            step_time_s=step_s,
            latency_s=latency_s(timeline, target.clock_hz, self._hidden_host_s()),
            global_batch_size=execution.global_batch,
            ipus=execution.replicas * len(memories),
            replicas=execution.replicas,
            stages=self.lowered.stages,
            clock_hz=target.clock_hz,
            tile_memory_bytes=target.tile_memory_bytes,
            parameters=self.forward.parameter_elements,
            macs_per_sample=macs(self.forward) // execution.micro_batch,
            per_ipu=tuple(self._ipu(memory) for memory in memories),
            timeline=with_all_reduce(timeline, all_reduce_s * target.clock_hz),
            all_reduce_s=all_reduce_s,
            host_s=host_s,
            ops=tuple(self._op(op) for op in self.lowered.ops),
            misfit=found,
            calibration_name=target.calibration_name,
            sdk=execution.sdk,
            region0_bytes=target.region0_tile_bytes,
        )

    def _ipu(self, memory: IpuMemory) -> IpuResult:
        ops = [op for op in self.lowered.ops if op.ipu == memory.ipu]
        total = Cost()
        for op in ops:
            if op.phase is not Phase.UPDATE:
                total = total + replace(self.costs[op.id], code=())
        return IpuResult(
            ipu=memory.ipu,
            stage=min((op.stage for op in ops), default=0),
            compute_cycles=total.compute_cycles,
            exchange_cycles=total.exchange_cycles,
            sync_cycles=total.sync_cycles,
            memory=memory,
        )

    def _op(self, op: Op) -> OpCost:
        execution = self.machine.execution
        result = self.lowered.tensors[op.outputs[0]].shape if op.outputs else ()
        return OpCost(
            op=op.id,
            label=op.label,
            kind=op.kind,
            scope=op.scope,
            stage=op.stage,
            ipu=op.ipu,
            phase=op.phase.value,
            result_shape=result,
            cost=self.costs[op.id],
            repeats=1 if op.phase is Phase.UPDATE else execution.gradient_accumulation,
        )

    # ---- time

    @property
    def samples(self) -> int:
        """Samples of a step: a weight update, or one micro-batch of every replica."""
        execution = self.machine.execution
        return execution.micro_batch * execution.replicas * execution.gradient_accumulation

    def timeline(self) -> Timeline:
        """The schedule of one replica."""
        cycles: Dict[Tuple[int, Phase], float] = defaultdict(float)
        ipus: Dict[int, int] = {}
        for op in self.lowered.ops:
            ipus.setdefault(op.stage, op.ipu)
            cycles[op.stage, op.phase] += self.costs[op.id].cycles
        host = {} if self.machine.execution.overlap_io else self._host_cycles()
        stages = self.lowered.stages
        works = [
            StageWork(
                stage=stage,
                ipu=ipus.get(stage, stage),
                forward_cycles=cycles[stage, Phase.FORWARD] + host.get(stage, 0.0),
                backward_cycles=cycles[stage, Phase.RECOMPUTE] + cycles[stage, Phase.BACKWARD],
                update_cycles=cycles[stage, Phase.UPDATE] + self._streaming_cycles(stage),
            )
            for stage in range(stages)
        ]
        hops = [self._hop_cycles(stage) for stage in range(stages - 1)]
        constants, target = self.machine.constants.system, self.machine.target
        sync = global_sync_cycles(target, stages, constants) if stages > 1 else 0.0
        return schedule(works, self.machine.execution, hops, sync)

    def _hop_cycles(self, stage: int) -> float:
        """Cycles on the link from a stage to the next, of one micro-batch's activations."""
        copied_bytes, ends = 0, {stage: stage, stage + 1: stage + 1}
        for op in self.lowered.in_phase(Phase.FORWARD):
            ends[op.stage] = op.ipu
            if op.kind == "inter_ipu_copy" and op.attributes.get("to_stage") == stage + 1:
                copied_bytes += self.lowered.tensors[op.inputs[0]].bytes
        target, constants = self.machine.target, self.machine.constants.system
        return inter_ipu_copy_cycles(copied_bytes, target, ends[stage], ends[stage + 1], constants)

    def step_s(self, timeline: Timeline, all_reduce_s: float, host_s: float) -> float:
        """Seconds of a step."""
        execution, clock_hz = self.machine.execution, self.machine.target.clock_hz
        overlapped_s = host_s if execution.overlap_io else 0.0  # others are in the stages' cycles
        if execution.training:
            return step_time_s(timeline, clock_hz, all_reduce_s, overlapped_s, execution.overlap_io)
        per_micro_batch_s = overlapped_s / execution.device_iterations
        return micro_batch_time_s(timeline, clock_hz, per_micro_batch_s, execution.overlap_io)

    def _host_bytes(self) -> Dict[int, List[int]]:
        """Bytes of every transfer between a stage and the host for one micro-batch."""
        found: Dict[int, List[int]] = defaultdict(list)
        for op in self.lowered.ops:
            if op.kind in ("host_load", "host_store"):
                tensor = (*op.inputs, *op.outputs)[0]
                found[op.stage].append(self.lowered.tensors[tensor].bytes)
        return found

    def _host_transfers_s(self) -> Dict[int, float]:
        """Seconds of each stage's host transfers for one micro-batch."""
        execution, target = self.machine.execution, self.machine.target
        sharing = host_sharing(execution.replicas, self.lowered.stages, target)
        constants = self.machine.constants.system
        return {
            stage: sum(host_transfer_s(size, target, sharing, constants) for size in sizes)
            for stage, sizes in self._host_bytes().items()
        }

    def _hidden_host_s(self) -> float:
        """Seconds of one micro-batch's own transfers that its stages' cycles leave out."""
        overlapped = self.machine.execution.overlap_io
        return sum(self._host_transfers_s().values()) if overlapped else 0.0

    def _host_cycles(self) -> Dict[int, float]:
        clock_hz = self.machine.target.clock_hz
        return {stage: seconds * clock_hz for stage, seconds in self._host_transfers_s().items()}

    def host_s(self) -> float:
        """Seconds of all host transfers of a step, on the stage that has most."""
        execution = self.machine.execution
        repeats = execution.gradient_accumulation
        if not execution.training:
            repeats = execution.device_iterations
        return repeats * max(self._host_transfers_s().values(), default=0.0)

    def all_reduce_s(self) -> float:
        """Seconds of the gradients' way through the replicas, merged into one call per IPU; where
        state is sharded, replicas gather the weights that they updated."""
        execution, target = self.machine.execution, self.machine.target
        reduced: Dict[int, int] = defaultdict(int)
        gathered: Dict[int, int] = defaultdict(int)
        for op in self.lowered.in_phase(Phase.UPDATE):
            if op.kind == "all_reduce":
                reduced[op.ipu] += self.lowered.tensors[op.inputs[0]].bytes
            elif op.kind == "update":
                gathered[op.ipu] += self.lowered.tensors[op.inputs[0]].bytes
        if not reduced:
            return 0.0
        place = (execution.replicas, len({op.ipu for op in self.lowered.ops}), target)
        constants = self.machine.constants.system
        if execution.replicated_tensor_sharding:
            scattered_s = reduce_scatter_s(max(reduced.values()), *place, 1, constants)
            return scattered_s + all_gather_s(max(gathered.values()), *place, 1, constants)
        return all_reduce_s(max(reduced.values()), *place, 1, constants)

    def _streaming_cycles(self, stage: int) -> float:
        """Cycles of fetching and writing back what a stage keeps off chip, per weight update."""
        execution = self.machine.execution
        moved_bytes = 0
        for op in self.lowered.in_phase(Phase.UPDATE):
            if op.kind != "update" or op.stage != stage:
                continue
            parameter, *others = self.lowered.operands(op)
            if execution.weights_off_chip:
                moved_bytes += parameter.bytes
            if execution.state_off_chip:
                states = [t for t in others if t.role is Role.STATE and t.name.startswith("state")]
                shares = execution.replicas if execution.replicated_tensor_sharding else 1
                moved_bytes += sum(tensor.bytes // shares for tensor in states)
        seconds = streaming_s(2 * moved_bytes, self.machine.target, self.machine.constants.system)
        return seconds * self.machine.target.clock_hz if moved_bytes else 0.0
