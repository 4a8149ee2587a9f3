"""A job that simulates a network's inference at growing batches."""

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple

from app import backend
from app.config import Run, load_run
from app.config.loader import CONFIG_ROOT
from app.ipu_model.graph import Graph
from app.ipu_model.program import Execution
from app.ipu_model.simulation import memory_of, simulate
from app.ipu_model.target import Target
from app.simulate import execution_of, trace_run
from benchmarks.suite.jobs import Result
from benchmarks.suite.simulations import figures

__all__ = ["growing", "largest_between", "sweep"]

_SETTINGS = (
    "system=ipu-m2000",
    "batching.replicas=1",
    "data.name=synthetic",
    'precision.types="16.16"',
)
_LARGEST = 1024
"""Nobody waits for larger batches."""
_PRECISION = 16
"""The largest batch that fits is looked for to within this share of itself, 1/16."""


def sweep(config: str, splits: List[str], hoisted: bool = False, largest: int = _LARGEST) -> Result:
    """Evaluation of a run file at batches of 1, 2, 4, ... until one does not fit, and at the
    largest that was found to.

    One replica of an IPU-M2000, half precision, images on the device. ``splits`` start pipeline
    stages. ``hoisted``: what depends on parameters alone, such as proxy norm's statistics, is
    worked out once and not for every batch.

    ``points`` has the keys of `simulations.figures` for each ``batch`` that fits; ``misfit`` is the
    smallest power of two that does not, with the bytes of its fullest tile.
    """
    backend.choose("ipu-model")
    chosen = [*_SETTINGS, f"pipeline.splits=[{','.join(splits)}]"]
    run = load_run(CONFIG_ROOT / config, chosen)
    target = Target.of(run.system)
    programs: Dict[int, Tuple[Graph, Execution]] = {}
    peaks: Dict[int, int] = {}

    def fits(batch: int) -> bool:
        programs[batch] = _program(run, batch, hoisted)
        # without the search for what would make it fit, which takes many times as long
        memories, misfit = memory_of(*programs[batch], target)
        peaks[batch] = max(each.peak_tile_bytes for each in memories)
        return misfit is None

    batches, refused = growing(fits, largest)
    points = [{"batch": each, **figures(simulate(*programs[each], target))} for each in batches]
    misfit: Optional[Dict[str, Any]] = None
    if refused is not None:
        misfit = {"batch": refused, "peak_tile_bytes": peaks[refused]}
    return {"points": points, "misfit": misfit, "tile_memory_bytes": target.tile_memory_bytes}


def growing(fits: Callable[[int], bool], largest: int) -> Tuple[List[int], Optional[int]]:
    """Powers of two that fit and the largest batch found to fit; and the first power that does
    not, None where all up to ``largest`` do."""
    batches: List[int] = []
    batch = 1
    while batch <= largest:
        if not fits(batch):
            if batches:
                found = largest_between(fits, batches[-1], batch)
                batches += [found] if found > batches[-1] else []
            return batches, batch
        batches.append(batch)
        batch *= 2
    return batches, None


def largest_between(fits: Callable[[int], bool], lower: int, upper: int) -> int:
    """A batch that fits, with none found to between it and a sixteenth more, by halving the gap
    between one that does and one that does not."""
    while upper - lower > max(1, lower // _PRECISION):
        middle = (lower + upper) // 2
        if fits(middle):
            lower = middle
        else:
            upper = middle
    return lower


def _program(run: Run, batch: int, hoisted: bool) -> Tuple[Graph, Execution]:
    run = replace(run, batching=replace(run.batching, micro_batch=batch))
    graph = trace_run(run, batch, "inference")
    execution = execution_of(run, graph, "inference")
    return graph, replace(execution, hoist_parameter_ops=hoisted)
