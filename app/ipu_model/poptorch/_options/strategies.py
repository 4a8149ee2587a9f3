"""Execution strategies: which blocks form a stage or a phase, and where it runs.

Source: graphcore/poptorch, python/options.py, python/_options_impl.py (SDK 3.4).
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from app.ipu_model.poptorch.enums import AutoStage, Liveness
from app.ipu_model.poptorch.errors import graph_error

_Phased = TypeVar("_Phased", bound="_IPhasedExecution")


class Location(NamedTuple):
    """Where a block runs; phased execution has no stages, the others have no phases."""

    stage: int
    phase: int
    ipu: int


class Stage:
    """Blocks that run together on one IPU.

    Args:
        block_ids: the blocks' ids.

    Raises:
        AssertionError: an id is no string.
    """

    def __init__(self, *block_ids: str) -> None:
        assert all(isinstance(block, str) for block in block_ids), (
            f"Block IDs are supposed to be strings but got {block_ids}"
        )
        self._blocks = block_ids
        self._stage_id = -1
        self._phase_id = -1
        self._ipu: Optional[int] = None

    @property
    def blocks(self) -> Sequence[str]:
        """Ids of the stage's blocks."""
        return self._blocks

    def ipu(self, ipu: int) -> "Stage":
        """Run the stage on this IPU; without it, where its blocks say or on the one numbered as
        the stage."""
        assert isinstance(ipu, int)
        self._ipu = ipu
        return self


class Phase:
    """Stages that run at the same time, each on its own IPU.

    Args:
        arg: stages, or ids of the blocks of a single stage.

    Raises:
        AssertionError: arguments of other types, or of both.
    """

    def __init__(self, *arg: Union[str, Stage]) -> None:
        self.stages: Sequence[Stage]
        stages = [element for element in arg if isinstance(element, Stage)]
        if len(stages) == len(arg):
            self.stages = stages
            return
        ids = [element for element in arg if isinstance(element, str)]
        assert len(ids) == len(arg), (
            "All arguments must either be block IDs (strings) or Stages: "
            f"{[type(element) for element in arg]}"
        )
        self.stages = [Stage(*ids)]

    def stage(self, idx: int) -> Stage:
        """The stage of this index."""
        return self.stages[idx]

    def ipus(self, *ipus: int) -> None:
        """One IPU for each stage.

        Raises:
            AssertionError: another number of IPUs than of stages.
        """
        assert len(ipus) == len(self.stages), (
            f"Phase contains {len(self.stages)} stages but you provided {len(ipus)} ipus"
        )
        for stage, ipu in zip(self.stages, ipus):
            stage.ipu(ipu)


class _IExecutionStrategy:
    """What all strategies share: a table from block to stage."""

    is_pipelined = False

    def __init__(self, block_map: Dict[str, Stage]) -> None:
        self._block_map = block_map

    def stage(self, block_id: str) -> Stage:
        """The stage a block was given to.

        Raises:
            AssertionError: no stage has the block.
        """
        assert block_id in self._block_map, f"Unknown block {block_id}"
        return self._block_map[block_id]

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {}

    def place(self, blocks: Sequence[Tuple[str, Optional[int]]]) -> List[Location]:
        """Where each started block runs, in the order in which the blocks start.

        Args:
            blocks: (block id, the block's own IPU or None).

        Raises:
            AssertionError: a block the strategy does not know, or cannot place.
            Error: an IPU the strategy does not allow.
        """
        known = dict(self._block_map)
        return [self._locate(known, block, ipu) for block, ipu in blocks]

    def _locate(self, known: Dict[str, Stage], block: str, ipu: Optional[int]) -> Location:
        stage = self._find(known, block, ipu)
        if stage._ipu is not None:
            ipu = stage._ipu
        return Location(stage._stage_id, stage._phase_id, stage._stage_id if ipu is None else ipu)

    def _find(self, known: Dict[str, Stage], block: str, ipu: Optional[int]) -> Stage:
        assert block in known, f"Unknown Block '{block}' list of expected Blocks: {list(known)}"
        return known[block]


def _add(block_map: Dict[str, Stage], stage: Stage) -> None:
    for block in stage.blocks:
        assert block not in block_map, f"{block} associated with more than one stage"
        block_map[block] = stage


class PipelinedExecution(_IExecutionStrategy):
    """Stages work at the same time on successive micro-batches (PopTorch's default).

    Args:
        args: an ``AutoStage``, or the stages in order, each a ``Stage``, the id of its only block
            or a list of ids. Nothing means ``AutoStage.SameAsIpu``.

    Raises:
        AssertionError: other arguments, or a block given to two stages.
    """

    is_pipelined = True

    def __init__(self, *args: Union[AutoStage, Stage, str, Sequence[str]]) -> None:
        self._auto = AutoStage.SameAsIpu
        block_map: Dict[str, Stage] = {}
        if len(args) == 1 and isinstance(args[0], AutoStage):
            self._auto = args[0]
            args = ()
        for stage_id, arg in enumerate(args):
            if isinstance(arg, Stage):
                stage = arg
            elif isinstance(arg, str):
                stage = Stage(arg)
            else:
                assert not isinstance(arg, AutoStage), "AutoStage must be the only argument"
                assert all(isinstance(block, str) for block in arg)
                stage = Stage(*arg)
            stage._stage_id = stage_id
            _add(block_map, stage)
        super().__init__(block_map)

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {"execution_mode": 0}

    def _find(self, known: Dict[str, Stage], block: str, ipu: Optional[int]) -> Stage:
        if self._block_map:
            return super()._find(known, block, ipu)
        if block not in known:
            stage = Stage(block)
            if self._auto is AutoStage.AutoIncrement:
                stage._stage_id = len(known) + 1
            else:
                assert ipu is not None, (
                    "poptorch.AutoStage.SameAsIpu was selected but no IPU was specified for block "
                    f"{block}"
                )
                stage._stage_id = ipu
            known[block] = stage
        return known[block]


class ShardedExecution(PipelinedExecution):
    """The same placement without overlap: one IPU of a replica works at a time."""

    is_pipelined = False

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {"execution_mode": 1}


class _IPhasedExecution(_IExecutionStrategy):
    """Blocks run in phases, one after the other.

    Args:
        phases: each a ``Phase``, or what makes one: a stage, a block's id or a list of either.

    Raises:
        AssertionError: no phases, other arguments, or a block given to two stages.
    """

    def __init__(self, *phases: Union[Phase, Stage, str, List[Stage], List[str]]) -> None:
        assert phases, (
            "There is currently no AutoStage for PhasedExecution, please explicitly specify the "
            "phases"
        )
        self._tensors_liveness = Liveness.AlwaysLive
        self._separate_backward_phase = False
        self._phases: List[Phase] = []
        block_map: Dict[str, Stage] = {}
        for phase_id, arg in enumerate(phases):
            if not isinstance(arg, Phase):
                arg = Phase(*arg) if isinstance(arg, list) else Phase(arg)
            self._phases.append(arg)
            for stage in arg.stages:
                stage._phase_id = phase_id
                _add(block_map, stage)
        super().__init__(block_map)

    def phase(self, phase: int) -> Phase:
        """The phase of this index.

        Raises:
            AssertionError: no number, or a negative one.
        """
        assert isinstance(phase, int), "Phases are identified by positive integers"
        assert phase >= 0, "Phases are identified by positive integers"
        return self._phases[phase]

    def useSeparateBackwardPhase(self: _Phased, use: bool = True) -> _Phased:
        """Start the backward pass in a phase of its own, not in the forward pass's last one."""
        assert isinstance(use, bool)
        self._separate_backward_phase = use
        return self

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {
            "execution_mode": 2,
            "separate_backward_phase": self._separate_backward_phase,
            "tensors_liveness": self._tensors_liveness.value,
        }


class ParallelPhasedExecution(_IPhasedExecution):
    """Phases alternate between two groups of IPUs, the even and the odd ones."""

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {**super().backendOptions(), "serial_phases_execution": False}

    def sendTensorsOffChipAfterFwd(self, off_chip: bool = True) -> "ParallelPhasedExecution":
        """Keep activations in streaming memory until the backward pass needs them."""
        assert isinstance(off_chip, bool)
        self._tensors_liveness = Liveness.OffChipAfterFwd if off_chip else Liveness.AlwaysLive
        return self

    def _locate(self, known: Dict[str, Stage], block: str, ipu: Optional[int]) -> Location:
        location = super()._locate(known, block, ipu)
        if location.ipu < 0 or location.phase % 2 != location.ipu % 2:
            raise graph_error(
                "When phases are executed in parallel: even phases must run on even IPUs and odd "
                "phases on odd IPUs"
            )
        return location


class SerialPhasedExecution(_IPhasedExecution):
    """All phases run one after the other on the same IPUs."""

    def setTensorsLiveness(self, liveness: Liveness) -> "SerialPhasedExecution":
        """When tensors leave the chip."""
        assert isinstance(liveness, Liveness)
        self._tensors_liveness = liveness
        return self

    def backendOptions(self) -> Dict[str, Union[int, bool]]:
        """Values for PopTorch's compiler."""
        return {**super().backendOptions(), "serial_phases_execution": True}
