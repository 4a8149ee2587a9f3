"""The weights of a checkpoint, for a run that starts from them or a test of them."""

import textwrap
from pathlib import Path
from typing import Dict, Literal, NamedTuple

from torch import Tensor, nn

from app.config.schema import Model
from app.errors import CheckpointError
from app.training.averaging import WeightAverage
from app.training.checkpoints import Checkpoint, CheckpointStore, read_checkpoint

Which = Literal["average", "last"]


class Weights(NamedTuple):
    """A network's state dict, and whether it is the average or the last one."""

    state: Dict[str, Tensor]
    which: Which


def checkpoint_file(path: Path) -> Path:
    """A checkpoint itself, or the newest one in a run directory.

    Raises:
        CheckpointError: the directory holds none.
    """
    if not path.is_dir():
        return path
    newest = CheckpointStore(path, keep=1).latest()
    if newest is None:
        raise CheckpointError(f"{path}: holds no checkpoint; give a run directory or a file")
    return newest


def weights_of(checkpoint: Checkpoint, which: Which = "average") -> Weights:
    """The averaged weights, where the checkpoint has them and they are asked for, or the last."""
    if which == "last" or not checkpoint.average:
        return Weights(checkpoint.model, "last")
    average = WeightAverage(decay=0.0)
    average.restore(checkpoint.average)
    return Weights(average.as_state_dict(checkpoint.model), "average")


def mismatch(path: Path, model: Model, error: RuntimeError, remedy: str) -> CheckpointError:
    """What to tell the user when torch refuses a checkpoint's weights for the network."""
    differences = textwrap.shorten(" ".join(str(error).splitlines()[1:]), 160)
    return CheckpointError(
        f"{path}: does not fit {model.name} as configured ({differences}); {remedy}"
    )


def load_initial(net: nn.Module, model: Model, path: Path) -> None:
    """Give a network the weights that a run starts from: averaged ones where there are any.

    path: a checkpoint, or a run directory for its newest.

    Raises:
        CheckpointError: there is none, or it is another network's.
    """
    file = checkpoint_file(path)
    weights = weights_of(read_checkpoint(file))
    try:
        net.load_state_dict(weights.state)
    except RuntimeError as error:
        remedy = "give a checkpoint of the same network as training.initial_checkpoint"
        raise mismatch(file, model, error, remedy) from error
