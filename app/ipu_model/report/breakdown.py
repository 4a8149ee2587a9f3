"""Where the time goes: cycles of one weight update, by what spends them.

Cycles are sums over the IPUs of one replica, each operation as often as it runs per weight update.
They are work, not time: pipelined IPUs work at once.
"""

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, List, Sequence, Tuple

from app.ipu_model.report.units import ratio
from app.ipu_model.simulation import IpuResult, OpCost, Simulation

__all__ = [
    "NO_MODULE",
    "PHASES",
    "Busy",
    "ModuleNode",
    "busy",
    "by",
    "fullest",
    "largest_modules",
    "module_tree",
    "phases",
    "slowest",
    "total",
]

NO_MODULE = "(outside any module)"
PHASES = ("forward", "recompute", "backward", "update")

SPLIT_ABOVE = 0.12


@dataclass(frozen=True)
class Busy:
    """Cycles that IPUs spend on compute, exchange and sync."""

    compute_cycles: float = 0.0
    exchange_cycles: float = 0.0
    sync_cycles: float = 0.0

    @property
    def cycles(self) -> float:
        """All of them."""
        return self.compute_cycles + self.exchange_cycles + self.sync_cycles

    def __add__(self, other: "Busy") -> "Busy":
        return Busy(
            self.compute_cycles + other.compute_cycles,
            self.exchange_cycles + other.exchange_cycles,
            self.sync_cycles + other.sync_cycles,
        )


def busy(op: OpCost) -> Busy:
    """Cycles of one operation per weight update."""
    cost, times = op.cost, op.repeats
    return Busy(cost.compute_cycles * times, cost.exchange_cycles * times, cost.sync_cycles * times)


def total(ops: Iterable[OpCost]) -> Busy:
    """Cycles of all operations per weight update."""
    return sum((busy(op) for op in ops), Busy())


def by(key: Callable[[OpCost], str], ops: Iterable[OpCost]) -> List[Tuple[str, Busy]]:
    """Cycles of operations of equal key, largest first."""
    found: Dict[str, Busy] = {}
    for op in ops:
        found[key(op)] = found.get(key(op), Busy()) + busy(op)
    return sorted(found.items(), key=lambda item: -item[1].cycles)


def phases(names: Iterable[str]) -> List[str]:
    """The phases among these names, in the order in which they run."""
    present = set(names)
    return [*(name for name in PHASES if name in present), *sorted(present.difference(PHASES))]


@dataclass
class ModuleNode:
    """A module: what its operations cost per phase, those of its submodules included."""

    name: str
    path: str
    phase_cycles: Dict[str, float] = field(default_factory=dict)
    children: Dict[str, "ModuleNode"] = field(default_factory=dict)

    @property
    def cycles(self) -> float:
        """Cycles of all phases."""
        return sum(self.phase_cycles.values())

    def add(self, phase: str, cycles: float) -> None:
        """Count cycles of one of its operations."""
        self.phase_cycles[phase] = self.phase_cycles.get(phase, 0.0) + cycles

    def child(self, name: str) -> "ModuleNode":
        """The submodule of this name, made if it is new."""
        path = f"{self.path}.{name}" if self.path else name
        return self.children.setdefault(name, ModuleNode(name, path))

    def ranked(self) -> List["ModuleNode"]:
        """Submodules, and the module's own operations where it has both, largest first."""
        parts = list(self.children.values())
        if parts:
            own = ModuleNode("(itself)", f"{self.path} (itself)")
            for phase, cycles in self.phase_cycles.items():
                own.add(phase, cycles - sum(part.phase_cycles.get(phase, 0.0) for part in parts))
            if own.cycles > 1e-9 * self.cycles:
                parts.append(own)
        return sorted(parts, key=lambda part: -part.cycles)


def module_tree(ops: Iterable[OpCost]) -> ModuleNode:
    """All operations under the dotted names of their modules."""
    root = ModuleNode("", "")
    for op in ops:
        node, cycles = root, busy(op).cycles
        node.add(op.phase, cycles)
        for name in (op.scope or NO_MODULE).split("."):
            node = node.child(name)
            node.add(op.phase, cycles)
    return root


def largest_modules(root: ModuleNode, limit: int) -> List[ModuleNode]:
    """Modules that together are the whole program, largest first, cut to `limit`.

    Starting from the outermost ones, a module that is more than an eighth of the program gives way
    to its submodules, so that names say something and no module is counted twice.
    """
    found = root.ranked()
    while True:
        large = [
            node
            for node in found
            if node.children and ratio(node.cycles, root.cycles) > SPLIT_ABOVE
        ]
        if not large:
            return sorted(found, key=lambda node: -node.cycles)[:limit]
        found = [node for node in found if node not in large]
        found += [part for node in large for part in node.ranked()]


def slowest(results: Sequence[IpuResult]) -> IpuResult:
    """The IPU with most cycles per micro-batch: it sets the pipeline's pace."""
    return max(results, key=lambda result: result.cycles_per_micro_batch)


def fullest(simulation: Simulation) -> IpuResult:
    """The IPU to look at for memory: that of the misfit, or else the one of the fullest tile."""
    if simulation.misfit is not None:
        for result in simulation.per_ipu:
            if result.ipu == simulation.misfit.ipu:
                return result
    return max(simulation.per_ipu, key=lambda result: result.memory.peak_tile_bytes)
