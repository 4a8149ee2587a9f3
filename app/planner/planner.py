"""The memory planner: from a request to a plan.

Explore the batchings, cut the promising ones, use what memory is left, confirm the result by a
simulation of the whole program, and explain it.
"""

from dataclasses import replace
from typing import List, Optional, Tuple

from app.ipu_model.calibration import calibration
from app.ipu_model.graph import Graph
from app.ipu_model.machine import Machine
from app.ipu_model.simulation import Lever, Misfit, Simulation, simulate
from app.planner.batching import batchings
from app.planner.cutting import Cut
from app.planner.explain import explained
from app.planner.explore import Explorer
from app.planner.network import Network, Traced
from app.planner.plan import Plan
from app.planner.polish import polished
from app.planner.request import PlanError, Request

__all__ = ["NoPlan", "plan", "staged"]


class NoPlan(Exception):
    """Nothing fits. `misfit` is the most frugal program that was found, with levers: the nearest
    changes of the request that can be met."""

    def __init__(self, misfit: Misfit) -> None:
        self.misfit = misfit
        short = misfit.demand_bytes - misfit.bound_bytes
        super().__init__(
            f"no plan fits: the most frugal one needs {misfit.demand_bytes} bytes on a tile of IPU "
            f"{misfit.ipu}, {short} more than the {misfit.bound_bytes} that it may hold"
        )


def plan(network: Network, request: Request, explain: bool = True) -> Plan:
    """The best plan that was found for a request.

    explain: also work out what moving each cut would change, and what other margins would cost.

    Raises:
        NoPlan: nothing fits.
        PlanError: the request contradicts itself, or the network.
        ValueError: the network runs at none of the micro-batches.
        MissingRule: an operation without a rule.
    """
    constants = calibration(request.target.calibration_name)
    machine = Machine(request.target, constants, request.execution)
    explorer = _explored(network, request, machine)
    for candidate in explorer.candidates:
        best = polished(candidate, request.limit_bytes)
        simulation = _confirmed(network.at(best.batching.micro_batch), best.cut, request)
        if simulation.peak_tile_bytes <= request.limit_bytes and simulation.fits:
            return explained(best, explorer, simulation, explain)
    raise NoPlan(_misfit(network, request, machine, explorer))


def staged(traced: Traced, cut: Cut) -> Graph:
    """The traced graph with its operations on the stages of a cut."""
    graph = traced.graph.copy()
    starts = [traced.cuts[stage.first].position for stage in cut.stages[1:]]
    graph.ops = []
    stage = 0
    for position, op in enumerate(traced.graph.ops):
        stage += stage < len(starts) and position == starts[stage]
        graph.ops.append(op.changed(stage=stage, ipu=stage))
    return graph


def _explored(network: Network, request: Request, machine: Machine) -> Explorer:
    """The explorer of a request; of one for the fewest IPUs, that of the first number of IPUs that
    reaches the throughput."""
    if request.objective != "ipus":
        return _explore(network, request, machine)
    explorer: Optional[Explorer] = None
    refusal: Optional[PlanError] = None
    for ipus in _steps(request.most_ipus):
        try:
            explorer = _explore(network, replace(request, ipus=ipus), machine)
        except PlanError as error:
            refusal = error
            continue
        best = explorer.best
        if best is not None and best.throughput_samples_per_s >= request.throughput_samples_per_s:
            return explorer
    if explorer is None and refusal is not None:
        raise refusal
    if explorer is not None and explorer.best is None:
        return explorer  # nothing fits on all of them
    reached = explorer.best.throughput_samples_per_s if explorer and explorer.best else 0.0
    raise PlanError(
        f"throughput: {request.throughput_samples_per_s:.0f} samples/s are out of reach of "
        f"{request.most_ipus} IPUs, the best plan makes {reached:.0f}; ask for less, or for more "
        "IPUs"
    )


def _steps(most: int) -> List[int]:
    """Powers of two, and the most."""
    return sorted({1 << bits for bits in range(most.bit_length())} | {most})


def _explore(network: Network, request: Request, machine: Machine) -> Explorer:
    explorer = Explorer(network, request, machine)
    explorer.explore()
    return explorer


def _confirmed(traced: Traced, cut: Cut, request: Request) -> Simulation:
    return simulate(staged(traced, cut), cut.execution, request.target)


def _misfit(network: Network, request: Request, machine: Machine, explorer: Explorer) -> Misfit:
    """The most frugal program, and the changes of the request that would do."""
    least = explorer.candidates[0].cut if explorer.candidates else explorer.least
    if least is None:
        raise PlanError(
            "stages: the network has too few layers for so many; keep fewer stages, or none"
        )
    stages = least.stages
    memory = max(stages, key=lambda stage: stage.peak_tile_bytes).result.memory
    levers = tuple(_levers(network, request, machine, memory.peak_tile_bytes))
    return Misfit(
        ipu=memory.ipu,
        tile=memory.tile,
        demand_bytes=memory.peak_tile_bytes,
        bound_bytes=request.limit_bytes,
        terms=memory.terms,
        levers=levers,
    )


def _levers(network: Network, request: Request, machine: Machine, demand_bytes: int) -> List[Lever]:
    """Changes of the request with which something fits, and the bytes that it spares."""
    found = []
    for name, changed in _relaxed(request):
        try:
            explorer = _explore(network, changed, machine)
        except PlanError:
            continue
        if explorer.best is not None:
            saved = demand_bytes - explorer.best.cut.peak_tile_bytes
            found.append(Lever(name, saved, True))
    return found


def _relaxed(request: Request) -> List[Tuple[str, Request]]:
    """Requests that ask for less, one change each, the smallest change first."""
    fixed, found = request.fixed, []
    if request.margin > 0:
        found.append((f"margin {request.margin:g} -> 0", replace(request, margin=0.0)))
    for name, words in (
        ("state_off_chip", "optimiser state off chip where it must be"),
        ("replicated_tensor_sharding", "optimiser state sharded over the replicas"),
        ("recomputation", "recomputation"),
        ("checkpoints", "other checkpoints"),
        ("proportions", "other available memory proportions"),
        ("splits", "other pipeline splits"),
        ("stages", "another number of stages"),
        ("micro_batch", "another micro-batch"),
        ("replicas", "another number of replicas"),
    ):
        if getattr(fixed, name) is not None:
            freed = replace(fixed, **{name: None})
            found.append((words, replace(request, fixed=freed)))
    if request.most_ipus < request.target.ipus:
        more = min(request.most_ipus * 2, request.target.ipus)
        found.append((f"IPUs {request.most_ipus} -> {more}", replace(request, ipus=more)))
    smallest = min(each.micro_batch for each in batchings(request))
    if smallest > 1 and not request.execution.training:
        batch = request.global_batch // smallest
        found.append(
            (f"batch {request.global_batch} -> {batch}", replace(request, global_batch=batch))
        )
    return found
