"""What the instances of a run agree on before and while they train."""

from typing import Dict, NamedTuple, Optional

import torch
from torch import Tensor

from app.config.loader import dump, load_text
from app.config.schema import Run
from app.distributed.world import World
from app.errors import ConfigError
from app.training.checkpoints import Checkpoint, from_bytes, to_bytes
from app.training.run_directory import changes_between
from datasets import ImageDataset


def agree_on_run(world: World, run: Run) -> None:
    """Refuse instances that were given different runs; settings that change no number may differ.

    Raises:
        ConfigError: as said; the others are told.
    """
    first = load_text(world.share(dump(run)), "the run of instance 0")
    differences = changes_between(first, run)
    if not differences and first.fine_tuning != run.fine_tuning:  # a resumed run may have another
        differences = "fine_tuning"
    if differences:
        raise ConfigError(
            f"instance {world.index}: was given another run than instance 0 ({differences}, "
            "instance 0's first); start all with the same settings"
        )


def agree_on_data(world: World, dataset: ImageDataset) -> None:
    """Refuse instances that read different numbers of images, or compute with different torch.

    Raises:
        ConfigError: as said; the others are told.
    """
    mine = {
        "torch": str(torch.__version__),
        "training images": len(dataset.train),
        "validation images": len(dataset.validation),
        "test images": len(dataset.test),
        "classes": dataset.num_classes,
    }
    first = world.share(mine)
    for name, value in mine.items():
        if value != first[name]:
            raise ConfigError(
                f"instance {world.index}: {name}: has {value}, instance 0 has {first[name]}; give "
                "all the same data and versions"
            )


def shared_checkpoint(world: World, own: Optional[Checkpoint]) -> Optional[Checkpoint]:
    """The first instance's, in all; its file need not be there for the others."""
    if world.count == 1:
        return own
    payload = world.share_bytes(to_bytes(own) if own is not None else b"")
    if world.is_first:
        return own
    return from_bytes(payload) if payload else None


def shared_weights(world: World, own: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The first instance's state dict, in all."""
    if world.count == 1:
        return own
    shared = shared_checkpoint(world, Checkpoint(0, 0, 0, "", own, {}, []))
    assert shared is not None
    return shared.model


class Outcome(NamedTuple):
    """What all instances know after one call."""

    loss: float
    """Summed over micro-batches; not finite where it is not in any instance."""
    correct: float
    """Images that were classified correctly."""
    stop: bool
    """Whether the run was told to stop, in any instance."""


def agreed_outcome(world: World, losses: Tensor, correct: Tensor, stop: bool) -> Outcome:
    """Put together what every instance's replicas did in one call, and who was told to stop."""
    found = world.gather([float(losses.sum()), float(correct.sum()), float(stop)])
    loss, right, stops = zip(*found)
    return Outcome(sum(loss), sum(right), any(stops))


def told_to_stop(world: World, stop: bool) -> bool:
    """Whether any instance was."""
    return any(flag for (flag,) in world.gather([float(stop)]))
