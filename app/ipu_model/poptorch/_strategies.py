"""Execution strategies: which blocks form a stage, and where it runs.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

from typing import Dict, List, Optional, Tuple, Union

from app.ipu_model.poptorch.enums import AutoStage


class Stage:
    """Blocks that run together; ``ipu`` places them."""

    def __init__(self, *block_ids: str) -> None:
        assert all(isinstance(block, str) for block in block_ids), (
            "Block ids are supposed to be strings"
        )
        self._block_ids = list(block_ids)
        self._ipu: Optional[int] = None

    @property
    def blocks(self) -> List[str]:
        """Ids of the stage's blocks."""
        return self._block_ids

    def ipu(self, ipu: int) -> "Stage":
        """Run the stage on this IPU; without it, on the one numbered as the stage."""
        self._ipu = ipu
        return self


class PipelinedExecution:
    """Stages work at the same time on successive micro-batches (PopTorch's default).

    Args:
        args: an ``AutoStage``, or stages (``Stage`` objects or ids of single blocks) in order.
    """

    is_pipelined = True

    def __init__(self, *args: Union[AutoStage, Stage, str]) -> None:
        self._auto = AutoStage.SameAsIpu
        self._stages: List[Stage] = []
        if len(args) == 1 and isinstance(args[0], AutoStage):
            self._auto = args[0]
            return
        for stage in args:
            assert not isinstance(stage, AutoStage), "AutoStage cannot be combined with stages"
            self._stages.append(stage if isinstance(stage, Stage) else Stage(stage))

    def place(self, blocks: "List[Tuple[str, Optional[int]]]") -> "List[Tuple[int, int]]":
        """Stage and IPU of each started block, in the order in which the blocks start.

        Args:
            blocks: (block id, IPU id or None) of each block.
        """
        if self._stages:
            table = {
                block: (index, index if stage._ipu is None else stage._ipu)
                for index, stage in enumerate(self._stages)
                for block in stage.blocks
            }
            for block, _ in blocks:
                assert block in table, (
                    f"Unknown block {block} list of expected blocks: {list(table)}"
                )
            return [table[block] for block, _ in blocks]
        if self._auto is AutoStage.AutoIncrement:
            numbers: Dict[str, int] = {}
            for block, _ in blocks:
                numbers.setdefault(block, len(numbers) + 1)
            return [(numbers[b], numbers[b] if ipu is None else ipu) for b, ipu in blocks]
        for block, ipu in blocks:
            assert ipu is not None, (
                f"ipu_id needs to be set in block {block} when AutoStage.SameAsIpu"
            )
        return [(ipu, ipu) for _, ipu in blocks if ipu is not None]


class ShardedExecution(PipelinedExecution):
    """The same placement without overlap: one IPU of a replica works at a time."""

    is_pipelined = False
