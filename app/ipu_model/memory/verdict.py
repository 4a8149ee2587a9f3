"""Does a program fit, and if not, where and by how much."""

from typing import Optional, Sequence, Tuple

from app.ipu_model.memory.measure import CONTROL_CODE
from app.ipu_model.memory.result import IpuMemory, Misfit, Term

__all__ = ["EXECUTABLE_MEMORY", "TILE_MEMORY", "demand", "misfit", "render_out_of_memory"]

TILE_MEMORY = "tile memory"
EXECUTABLE_MEMORY = "executable memory"


def misfit(
    memories: Sequence[IpuMemory], tile_memory_bytes: int, region0_tile_bytes: int
) -> Optional[Misfit]:
    """The fullest tile of the worst IPU if it does not fit, without levers; else None.

    Tile memory is looked at first, then the region that holds code.
    """
    bounds = ((TILE_MEMORY, tile_memory_bytes), (EXECUTABLE_MEMORY, region0_tile_bytes))
    for resource, bound_bytes in bounds:
        worst = max(memories, key=lambda memory: _used(memory, resource), default=None)
        if worst is not None and _used(worst, resource) > bound_bytes:
            demand_bytes, terms = _used(worst, resource), _terms(worst, resource)
            return Misfit(worst.ipu, worst.tile, demand_bytes, bound_bytes, terms, (), resource)
    return None


def demand(memories: Sequence[IpuMemory], resource: str) -> int:
    """Bytes of a resource on the fullest tile of all IPUs."""
    return max((_used(memory, resource) for memory in memories), default=0)


def render_out_of_memory(found: Misfit) -> str:
    """The compiler's words for a misfit [Poplar, graph_memory_allocation_error]."""
    if found.resource == TILE_MEMORY:
        return (
            f"Memory allocation error : Out of memory on tile {found.tile}: "
            f"{found.demand_bytes} bytes used but tiles only have {found.bound_bytes} bytes of "
            "memory"
        )
    return (
        f"Memory allocation error : Out of memory on tile {found.tile}: {found.demand_bytes} bytes "
        f"of code but tiles only have {found.bound_bytes} bytes of executable memory"
    )


def _used(memory: IpuMemory, resource: str) -> int:
    return memory.peak_tile_bytes if resource == TILE_MEMORY else memory.region0_tile_bytes


def _terms(memory: IpuMemory, resource: str) -> Tuple[Term, ...]:
    if resource == TILE_MEMORY:
        return memory.terms
    control = sum(term.tile_bytes for term in memory.terms if term.name == CONTROL_CODE)
    operations = memory.region0_tile_bytes - control
    return (
        Term("code of operations", operations, True),
        Term(CONTROL_CODE, control, True),
    )
