"""Blocks: parts of a model that are placed on IPUs by name. No-ops outside an executor.

Source: graphcore/poptorch, python/ops.py (SDK 3.4).
"""

import itertools
from typing import Any, List, Optional, Sequence, Tuple

import torch

from app.ipu_model.poptorch._capture import BlockStart, Event, active_capture
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

_HOOK = "_poptorch_block_hook"
_automatic_ids = itertools.count()


def BeginBlock(
    layer_to_call: torch.nn.Module, user_id: Optional[str] = None, ipu_id: Optional[int] = None
) -> torch.nn.Module:
    """Start a block whenever the module is called; it lasts until the next one starts.

    Args:
        layer_to_call: the module.
        user_id: the block's id; a falsy one is replaced by an automatic id.
        ipu_id: IPU the block runs on, where the strategy does not say.

    Returns:
        The same module.

    Raises:
        Error: the module starts a block already.
    """
    if hasattr(layer_to_call, _HOOK):
        raise Error("module has already been assigned to a block.")
    block = user_id or str(next(_automatic_ids))

    def start_block(module: torch.nn.Module, inputs: Any) -> None:
        capture = active_capture()
        if capture is not None:
            capture.begin_block(block, ipu_id)

    object.__setattr__(layer_to_call, _HOOK, layer_to_call.register_forward_pre_hook(start_block))
    return layer_to_call


def removeBlocks(module: torch.nn.Module) -> None:
    """Undo ``BeginBlock`` on the module and everything below it."""
    for child in module.modules():
        hook = vars(child).get(_HOOK)
        if hook is not None:
            hook.remove()
            object.__delattr__(child, _HOOK)


class Placement:
    """Pipeline stages and IPUs of one captured forward pass.

    Raises:
        Error: stages go backwards, or more IPUs are asked for than a process can have.
        AssertionError: a block the strategy cannot place.
    """

    def __init__(self, options: Options, events: Sequence[Event]) -> None:
        strategy = options._execution_strategy
        blocks = [(e.block_id, e.ipu_id) for e in events if isinstance(e, BlockStart)]
        placed: List[Tuple[int, int]] = strategy.place(blocks)
        self.is_pipelined: bool = strategy.is_pipelined
        stages = [stage for stage, _ in placed]
        if any(later < earlier for earlier, later in zip(stages, stages[1:])):
            raise Error(f"Pipeline stages must ascend along the graph, found the order {stages}")
        ipus = [0] + [ipu for _, ipu in placed]
        switches = sum(later != earlier for earlier, later in zip(ipus, ipus[1:]))
        self.forward_stages = switches + 1
        self.ipus = self._reserved(options, max(len(set(ipus)), max(ipus) + 1))

    @staticmethod
    def _reserved(options: Options, ipus_per_replica: int) -> int:
        ipus = ipus_per_replica * int(options.replication_factor)
        rounded = 1 << (ipus - 1).bit_length()
        if ipus != rounded and not options.auto_round_num_ipus:
            raise Error(
                f"Unsupported number of IPUs requested: {ipus}, which is not a power of two; "
                "use poptorch.Options().autoRoundNumIPUs(True) to reserve the next one."
            )
        if rounded > 64:
            raise Error(f"Too many IPUs requested ({rounded}), the limit is 64 per process.")
        return rounded

    def check_training(self, gradient_accumulation: int) -> None:
        """A training pipeline keeps 2·stages - 1 micro-batches in flight."""
        needed = 2 * self.forward_stages - 1
        if self.is_pipelined and self.forward_stages > 1 and gradient_accumulation < needed:
            raise Error(
                "poptorch.Options().Training.gradientAccumulation must be greater than or equal "
                f"to the number of pipeline stages ({needed}) for training, got "
                f"{gradient_accumulation}"
            )

    def check_inference(self, device_iterations: int) -> None:
        """An inference pipeline keeps one micro-batch in flight per stage."""
        needed = self.forward_stages
        if self.is_pipelined and needed > 1 and device_iterations < needed:
            raise Error(
                "poptorch.Options().deviceIterations must be greater than or equal to the number "
                f"of pipeline stages ({needed}) for inference, got {device_iterations}"
            )
