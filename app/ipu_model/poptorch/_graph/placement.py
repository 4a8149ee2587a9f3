"""Placement: on which IPU each operation of a captured forward pass runs, and what that asks for.

Source: graphcore/poptorch, popart_compiler/source/Compiler.cpp and CompilerImpl.cpp;
graphcore/popart, src/ir.cpp and src/transforms/pipeline.cpp (SDK 3.4).
"""

from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Set

from app.ipu_model.poptorch._graph.rules import (
    Annotation,
    BlockEnd,
    BlockStart,
    Event,
    Operation,
)
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options.strategies import Location
from app.ipu_model.poptorch.errors import backend_error, graph_error
from app.ipu_model.poptorch.options import Options

RAW_BEGIN, RAW_END = "begin_ipu_block", "end_ipu_block"
_MOST_IPUS = 64


class Placement:
    """Pipeline stages and IPUs of one captured forward pass.

    Args:
        options: the executor's own.
        events: what the capture recorded.
        parameter_names: name of each parameter, by id.

    Attributes:
        is_pipelined: whether stages work at the same time.
        stage_ipus: the IPU of each forward stage; a stage ends where the IPU changes, and the
            first one is on IPU 0 whether or not anything runs there.
        ipus_per_replica: IPUs one replica takes.
        ipus: IPUs this process reserves.

    Raises:
        Error: operations without block, stages or weights a pipeline cannot have, or a number of
            IPUs a process cannot have.
        AssertionError: a block the strategy cannot place.
    """

    def __init__(
        self,
        options: Options,
        events: Sequence[Event],
        parameter_names: Optional[Mapping[int, str]] = None,
    ) -> None:
        strategy = options._execution_strategy
        self.is_pipelined: bool = strategy.is_pipelined
        self.stage_ipus: List[int] = [0]
        self._used: Set[int] = set()
        self._stages: List[int] = []
        self._ipus_of_stage: Dict[int, Set[int]] = {}
        self._ipus_of_parameter: Dict[int, Set[int]] = {}
        blocks = [(e.block_id, e.ipu_id) for e in events if isinstance(e, BlockStart)]
        self._follow(events, iter(strategy.place(blocks)))
        if self.is_pipelined and self.forward_stages > 1:
            self._check_pipeline(parameter_names or {})
        self.ipus_per_replica = max(len(self._used), max(self._used, default=0) + 1)
        self.ipus = _reserved(options, self.ipus_per_replica * int(options.replication_factor))

    @property
    def forward_stages(self) -> int:
        """Forward stages of the pipeline; training adds one fewer backward stages."""
        return len(self.stage_ipus)

    def _follow(self, events: Sequence[Event], located: Iterator[Location]) -> None:
        active: Optional[Location] = Location(0, 0, 0)
        for event in events:
            if isinstance(event, Operation):
                if active is None or active.ipu < 0:
                    raise graph_error("No active Block, all the ops must belong to a Block")
                self._run(active, event)
                continue
            if isinstance(event, BlockStart):
                active = self._switch(next(located))
            elif isinstance(event, Annotation) and event.kind == RAW_BEGIN:
                active = self._switch(
                    Location(event.details["stage_id"], event.details["phase_id"],
                             event.details["ipu_id"])
                )  # fmt: skip
            elif isinstance(event, BlockEnd) or event.kind == RAW_END:
                active = None

    def _switch(self, location: Location) -> Location:
        if location.ipu != self.stage_ipus[-1]:
            self.stage_ipus.append(location.ipu)
        return location

    def _run(self, location: Location, operation: Operation) -> None:
        self._used.add(location.ipu)
        if self._stages[-1:] != [location.stage]:
            self._stages.append(location.stage)
        self._ipus_of_stage.setdefault(location.stage, set()).add(location.ipu)
        for parameter in operation.parameters:
            self._ipus_of_parameter.setdefault(parameter, set()).add(location.ipu)

    def _check_pipeline(self, parameter_names: Mapping[int, str]) -> None:
        for stage, ipus in self._ipus_of_stage.items():
            if len(ipus) > 1:
                raise backend_error(
                    f"Ops have the same pipeline stage {stage}, but different virtual graph ids "
                    f"{sorted(ipus)}. All ops with the same pipeline stage must also have the same "
                    "virtual graph id"
                )
        if self._stages != sorted(self._stages):
            raise backend_error(
                "Pipeline stages must ascend along the graph, found the order "
                f"{self._stages}; give later blocks later stages, for instance with "
                "poptorch.AutoStage.AutoIncrement"
            )
        for parameter, ipus in self._ipus_of_parameter.items():
            if len(ipus) > 1:
                raise backend_error(
                    f"Can not copy variable tensor {parameter_names.get(parameter, '')} between "
                    "virtual graphs when pipelining. All pipeline stages using this tensor should "
                    f"be on the same graph, found {sorted(ipus)}."
                )

    def check_training(self, gradient_accumulation: int) -> None:
        """A training pipeline keeps 2·stages - 1 micro-batches in flight."""
        forward = self.forward_stages
        if self.is_pipelined and forward > 1 and gradient_accumulation < 2 * forward - 1:
            raise graph_error(
                "poptorch.Options().Training.gradientAccumulation must be greater than or equal "
                f"to the number of pipeline stages ({2 * forward - 1}) when using "
                f"poptorch.PipelinedExecution. Please note that a model with {forward} pipeline "
                f"stages in PopTorch will have an additional {forward - 1} stages when training."
            )

    def check_inference(self, device_iterations: int) -> None:
        """An inference pipeline keeps one micro-batch in flight per stage."""
        forward = self.forward_stages
        if self.is_pipelined and forward > 1 and device_iterations < forward:
            raise graph_error(
                "poptorch.Options().deviceIterations must be greater than or equal to the number "
                f"of pipeline stages ({forward}) when using PopTorch.PipelinedExecution."
            )


def _reserved(options: Options, ipus: int) -> int:
    if ipus > _MOST_IPUS:
        raise graph_error(
            f"Too many IPUs requested ({ipus}). Experiments that need more than {_MOST_IPUS} IPUs "
            "require distributed execution."
        )
    rounded = 1 << (ipus - 1).bit_length()
    if rounded == ipus:
        return ipus
    reason = (
        f"because PopTorch must reserve a power of 2 or maximum of {_MOST_IPUS} IPUs per process"
    )
    if not options.auto_round_num_ipus:
        raise graph_error(
            f"The model specifies the use of {ipus} IPUs, however PopTorch must reserve a minimum "
            f"of {rounded} in order to allow the model to run, {reason}. Please reconfigure your "
            "model to use a different number of IPUs or set "
            "poptorch.Options().autoRoundNumIPUs(True)."
        )
    logger.warning(
        "Reserving %d IPUs when the model specifices the use of only %d, %s. %d will be reserved "
        "but not used.", rounded, ipus, reason, rounded - ipus,
    )  # fmt: skip
    return rounded
