"""A program on a system, worked out: cycles, bytes, time and fit.

The parts are put together here: lowering, a cost for every operation, memory, schedule, transfers.
"""

from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Tuple

from app.ipu_model.calibration import Calibration, calibration
from app.ipu_model.cost.cost import Cost
from app.ipu_model.flops import macs
from app.ipu_model.graph import Graph, Op, Phase
from app.ipu_model.lowering import lower
from app.ipu_model.machine import Machine
from app.ipu_model.memory import IpuMemory, Lever, Misfit, levers, misfit
from app.ipu_model.pipeline import (
    Timeline,
    with_all_reduce,
)
from app.ipu_model.program import Execution, ProgramError
from app.ipu_model.target import Target
from app.ipu_model.timing import demands, step_times

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
    machine = Machine(target, constants or calibration(target.calibration_name), execution)
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
    machine = Machine(target, calibration(target.calibration_name), execution)
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
    costs = Machine(target, constants, execution).costs(lowered)
    stages = demands(lowered, costs, execution)
    return step_times(stages, execution, target, constants.system).throughput_samples_per_s


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
    machine: "Machine",
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
class _Result:
    """What follows from the costs of a lowered graph."""

    forward: Graph
    lowered: Graph
    costs: Mapping[int, Cost]
    machine: Machine

    def simulation(
        self, name: str, memories: Tuple[IpuMemory, ...], found: Optional[Misfit]
    ) -> Simulation:
        """Everything put together."""
        execution, target = self.machine.execution, self.machine.target
        stages = demands(self.lowered, self.costs, execution)
        times = step_times(stages, execution, target, self.machine.constants.system)
        return Simulation(
            name=name,
            system=target.name,
            mode=execution.mode,
            throughput_samples_per_s=times.throughput_samples_per_s,
            step_time_s=times.step_time_s,
            latency_s=times.latency_s,
            global_batch_size=execution.global_batch,
            ipus=execution.replicas * len(memories),
            replicas=execution.replicas,
            stages=self.lowered.stages,
            clock_hz=target.clock_hz,
            tile_memory_bytes=target.tile_memory_bytes,
            parameters=self.forward.parameter_elements,
            macs_per_sample=macs(self.forward) // execution.micro_batch,
            per_ipu=tuple(self._ipu(memory) for memory in memories),
            timeline=with_all_reduce(times.timeline, times.all_reduce_s * target.clock_hz),
            all_reduce_s=times.all_reduce_s,
            host_s=times.host_s,
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
