"""What a run trains on, as one sequence of samples that can be entered anywhere."""

from typing import Any, Iterator

from torch.utils.data import Dataset, Sampler

from app.config.schema import Batching, Run
from app.distributed.world import World
from app.training.mixing import MixingDraws, MixingStream
from datasets import ImageSplit, TrainingStream, autoaugment_policy


def training_samples(run: Run, split: ImageSplit, samples_per_epoch: int) -> "Dataset[Any]":
    """The samples of the whole run: each a tuple of what the training model takes.

    Image, uint8 [C, S, S], label, int64 [], and in a run that mixes how to mix them, float32 [5].
    """
    stream = TrainingStream(
        split,
        run.seed,
        samples_per_epoch,
        run.training.epochs,
        run.augmentation,
        autoaugment_policy(run.data),
    )
    return _mixing(run, stream) if run.mixing.on else stream


def _mixing(run: Run, stream: "Dataset[Any]") -> "Dataset[Any]":
    size, micro_batch = run.data.image_size, run.batching.micro_batch
    return MixingStream(stream, MixingDraws(run.mixing, run.seed, size, micro_batch))


class Share(Sampler[int]):
    """What one instance consumes of samples ``start`` to ``stop - 1``, in order.

    One process with all replicas gives replica r the r-th micro-batch of every micro_batch x
    replicas samples. So does this, and each instance has the replicas that follow those of the
    instance before it: which replica sees which sample when does not depend on the number of
    instances.

    Args:
        start, stop: at whole multiples of micro_batch x replicas.
        batching: of the run, whose replicas are those of all instances.
        world: the instances.
    """

    def __init__(self, start: int, stop: int, batching: Batching, world: World) -> None:
        block = batching.micro_batch * batching.replicas
        self._length = block // world.count
        self._firsts = range(start + world.index * self._length, stop, block)

    def __iter__(self) -> Iterator[int]:
        for first in self._firsts:
            yield from range(first, first + self._length)

    def __len__(self) -> int:
        return len(self._firsts) * self._length
