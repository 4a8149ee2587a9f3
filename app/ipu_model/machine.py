"""A target with its constants, running programs one way: costs and memory of lowered graphs."""

from dataclasses import dataclass
from typing import Collection, Dict, List, Mapping, Optional, Tuple

from app.ipu_model.calibration import Calibration
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.convolution.planning import plan_many
from app.ipu_model.cost.convolution.rule import PLANNED_KINDS, request
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.rules import op_costs
from app.ipu_model.graph import Graph, Op
from app.ipu_model.memory import IpuMemory, measure
from app.ipu_model.program import Execution
from app.ipu_model.target import Target

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
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
        by_ipu: Dict[int, List[Op]] = {}
        for op in lowered.ops:
            by_ipu.setdefault(op.ipu, []).append(op)
        contexts = {ipu: self.context(ipu) for ipu in by_ipu}
        planned = (op for op in lowered.ops if op.kind in PLANNED_KINDS)
        plan_many([request(lowered, op, contexts[op.ipu]) for op in planned])
        scale = self.constants.sdk.scale(self.execution.sdk)
        found: Dict[int, Cost] = {}
        for ipu, ops in by_ipu.items():
            found.update(op_costs(lowered, ops, contexts[ipu]))
        distinct = {id(cost): cost for cost in found.values()}
        scaled = {key: cost.scaled(scale) for key, cost in distinct.items()}
        return {op: scaled[id(cost)] for op, cost in found.items()}

    def memories(
        self,
        lowered: Graph,
        costs: Mapping[int, Cost],
        ipus: Optional[Collection[int]] = None,
    ) -> Tuple[IpuMemory, ...]:
        """Bytes on every tile of every IPU of a replica, or of those in `ipus`."""
        return measure(
            lowered,
            costs,
            self.execution,
            self.target.without_io_tiles(self.execution.io_tiles),
            self.target.region0_tile_bytes,
            self.constants,
            ipus,
        )
