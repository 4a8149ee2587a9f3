"""What the IPUs would do with a compiled program: cycles, seconds and memory, all simulated.

Nothing is simulated before somebody asks, except where a program may not fit. Programs whose
operations the IPU Model cannot cost run all the same; only the questions are refused.
"""

import json
import os
from typing import Dict, Optional, Tuple

from app.ipu_model.collectives import host_sharing, host_transfer_s
from app.ipu_model.graph import GraphError
from app.ipu_model.memory import Misfit, render_out_of_memory
from app.ipu_model.missing import MissingRule
from app.ipu_model.poptorch._device.executable import Executable
from app.ipu_model.poptorch._device.execution import execution_of
from app.ipu_model.poptorch._device.memory_bound import surely_fits
from app.ipu_model.poptorch._device.system import target_of
from app.ipu_model.poptorch._device.timing import MicroBatchTimes
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._optimizers.settings import OptimizerSettings
from app.ipu_model.poptorch.errors import Error, out_of_memory
from app.ipu_model.poptorch.options import Options
from app.ipu_model.program import Execution, ProgramError
from app.ipu_model.report.sentences import lever_sentence, misfit_sentence
from app.ipu_model.report.units import kib
from app.ipu_model.simulation import Simulation, simulate
from app.ipu_model.target import Target

__all__ = ["SimulatedProgram"]

_CHECK = "IPU_MODEL_CHECK_MEMORY"
_ALLOW = "debug.allowOutOfMemory"
_SHOWN_TERMS = 6


class SimulatedProgram:
    """One executable on the IPUs that it would run on.

    ``IPU_MODEL_CHECK_MEMORY=0`` in the environment lets programs run that would not fit.

    Args:
        executable: the program.
        options: the executor's own.
        settings: the optimiser's; None is inference.

    Raises:
        Error: an IPU version that does not exist.
    """

    def __init__(
        self, executable: Executable, options: Options, settings: Optional[OptimizerSettings]
    ) -> None:
        self._executable = executable
        self._options = options
        self._settings = settings
        replicas = executable.replicas * options.Distributed.numProcesses
        # the partition of a process is a power of two
        self.target: Target = target_of(options, executable.placement.ipus_per_replica * replicas)
        self._simulation: Optional[Simulation] = None
        self._refusal: Optional[str] = None

    @property
    def execution(self) -> Execution:
        """How the program runs; its graph must have been recorded."""
        executable = self._executable
        placement, recorded = executable.placement, executable.recorded
        return execution_of(self._options, self._settings, placement, recorded)

    # ---- memory

    def check_memory(self) -> None:
        """Refuse a program that does not fit; to be called at compilation.

        Raises:
            Error: as PopTorch's when it runs out of memory; ``misfit`` says how and what would
                help. ``debug.allowOutOfMemory`` turns it into a warning.
        """
        if os.environ.get(_CHECK, "1") == "0":
            return
        refusal = self._unknown()
        if refusal is None:
            try:
                misfit = self._misfit()
            except Exception as error:  # what cannot be judged must still run
                refusal = str(error)
        if refusal is not None:
            logger.warning("Memory was not checked (simulated): %s", refusal)
        elif misfit is not None:
            message = _message(misfit)
            if not _is_allowed(self._options):
                raise out_of_memory(message, misfit)
            logger.warning("%s (%s is set)", message, _ALLOW)

    def _misfit(self) -> Optional[Misfit]:
        graph = self._executable.graph
        assert graph is not None
        if surely_fits(graph, self.execution, self.target):
            return None
        return self.simulation.misfit

    # ---- time

    @property
    def simulation(self) -> Simulation:
        """The simulation, made when it is first asked for.

        Raises:
            Error: an operation without rule, or what else keeps the program from being simulated.
        """
        if self._simulation is None and self._refusal is None:
            self._refusal = self._unknown() or self._simulate()
        if self._simulation is None:
            raise Error(f"The program cannot be simulated: {self._refusal}")
        return self._simulation

    def _unknown(self) -> Optional[str]:
        """Why the graph cannot be simulated, as far as it says so itself."""
        recorded = self._executable.recorded
        if recorded.graph is None:
            return f"it could not be recorded: {recorded.reason}"
        for op in recorded.graph.ops:
            if op.kind == "unknown":
                name, file = op.attributes["name"], op.attributes["file"]
                return str(MissingRule(name, op.scope or "<root>", file))
        return None

    def _simulate(self) -> Optional[str]:
        executable = self._executable
        assert executable.graph is not None
        name = type(executable.model).__name__
        try:
            self._simulation = simulate(
                executable.graph, self.execution, self.target, name, executable.retrace
            )
        except (MissingRule, GraphError, ProgramError) as error:
            return str(error)
        return None

    def cycles(self) -> int:
        """Cycles of one call on one replica: all device iterations.

        Raises:
            Error: see ``simulation``.
        """
        found, execution = self.simulation, self.execution
        if execution.training:
            seconds = found.step_time_s * execution.device_iterations
        else:
            seconds = found.timeline.cycles / found.clock_hz
            seconds = max(seconds, found.host_s if execution.overlap_io else 0.0)
        return round(seconds * found.clock_hz)

    def micro_batch_times(self) -> MicroBatchTimes:
        """When the transfers of a micro-batch happen.

        Raises:
            Error: see ``simulation``.
        """
        found, execution = self.simulation, self.execution
        to_device_s, to_host_s = self._host_transfers_s(execution)
        latency_s = found.latency_s
        if execution.overlap_io:  # transfers stand beside the cycles of the stages
            latency_s += to_device_s + to_host_s
        period_s = found.timeline.period_cycles / found.clock_hz
        accumulation = execution.gradient_accumulation
        return MicroBatchTimes(
            replicas=self._executable.replicas,
            accumulation=accumulation,
            iteration_s=found.step_time_s if execution.training else period_s,
            micro_batch_s=period_s,
            to_device_s=to_device_s,
            compute_s=max(0.0, latency_s - to_device_s - to_host_s),
            to_host_s=to_host_s,
        )

    def _host_transfers_s(self, execution: Execution) -> Tuple[float, float]:
        """Seconds of a micro-batch's way to the device, and of its results' way back."""
        graph = self._executable.graph
        assert graph is not None
        if not execution.host_transfers:
            return 0.0, 0.0
        sharing = host_sharing(execution.replicas, graph.stages, self.target)
        read = {id for op in graph.ops for id in op.inputs}

        def seconds(ids: Dict[int, None]) -> float:
            sizes = (graph.tensors[id].bytes for id in ids)
            return sum(host_transfer_s(size, self.target, sharing) for size in sizes)

        inputs = dict.fromkeys(id for id in graph.inputs if id in read)
        return seconds(inputs), seconds(dict.fromkeys(graph.outputs))


def _is_allowed(options: Options) -> bool:
    """Whether programs that do not fit may run; the environment wins."""
    engine = dict(options._Popart.value("engineOptions") or {})
    try:
        engine.update(json.loads(os.environ.get("POPLAR_ENGINE_OPTIONS") or "{}"))
    except ValueError:  # Poplar's to refuse
        logger.warning("POPLAR_ENGINE_OPTIONS is no JSON object; it is ignored")
    return str(engine.get(_ALLOW, "false")).lower() == "true"


def _message(misfit: Misfit) -> str:
    terms = [f"  {kib(term.tile_bytes):>12}  {term.name}" for term in misfit.terms[:_SHOWN_TERMS]]
    rest = sum(term.tile_bytes for term in misfit.terms[_SHOWN_TERMS:])
    if rest:
        terms.append(f"  {kib(rest):>12}  other")
    return "\n".join(
        [
            "Out of memory: Cannot fit all variable data onto one or more tiles.",
            render_out_of_memory(misfit),
            f"Simulated: {misfit_sentence(misfit)}:",
            *terms,
            *(f"  try: {lever_sentence(lever)}" for lever in misfit.levers),
            f"To run on the CPU all the same, set {_CHECK}=0.",
        ]
    )
