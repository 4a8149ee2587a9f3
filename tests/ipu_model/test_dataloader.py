"""Batches of a call: their size, their order, and what the loader refuses."""

import logging
from typing import Any, Iterator, List, NamedTuple, Optional

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, IterableDataset, SequentialSampler

from app.ipu_model import poptorch
from app.ipu_model.poptorch import DataLoader, DataLoaderMode
from app.ipu_model.poptorch.enums import CommGroupType

ALL_MODES = [DataLoaderMode.Sync, DataLoaderMode.Async, DataLoaderMode.AsyncRebatched]
MODES = pytest.mark.parametrize("mode", ALL_MODES)


class Numbers(Dataset):  # type: ignore[type-arg]
    """The numbers 0, 1, ..."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(float(index))


class Stream(IterableDataset):  # type: ignore[type-arg]
    """The same five numbers without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(5.0))


def options_for(iterations: int = 1, accumulation: int = 1, replicas: int = 1) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)
    return options


def epochs(loader: DataLoader, count: int = 1) -> List[List[List[float]]]:
    """The batches of some epochs; the loader is then terminated."""
    try:
        return [[batch.tolist() for batch in loader] for _ in range(count)]
    finally:
        loader.terminate()


@MODES
def test_batch_holds_the_samples_of_one_call(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(2, 3, 2), Numbers(50), batch_size=2, mode=mode)
    assert loader.combinedBatchSize == 2 * 2 * 3 * 2
    assert len(loader) == 2
    assert epochs(loader) == [[list(range(24)), list(range(24, 48))]]


def test_replicas_of_a_group_share_their_samples() -> None:
    options = options_for(2, 3, 4).inputReplicaGrouping(2, CommGroupType.Consecutive)
    assert DataLoader(options, Numbers(50), batch_size=2).combinedBatchSize == 2 * 2 * 3 * 4 // 2


def test_batches_fit_a_call_of_the_same_options() -> None:
    options = options_for(2, 1, 2)
    executor = poptorch.inferenceModel(torch.nn.Identity(), options)
    outputs = [executor(batch) for batch in DataLoader(options, Numbers(16), batch_size=2)]
    assert torch.equal(torch.cat(outputs), torch.arange(16.0))


@MODES
def test_last_short_batch_is_dropped_unless_it_is_wanted(mode: DataLoaderMode) -> None:
    dropping = DataLoader(options_for(2), Numbers(5), 2, mode=mode)
    assert (len(dropping), epochs(dropping)) == (1, [[[0, 1, 2, 3]]])
    wanting = DataLoader(options_for(2), Numbers(5), 2, drop_last=False, mode=mode)
    assert (len(wanting), epochs(wanting, 2)) == (2, [[[0, 1, 2, 3], [4]]] * 2)


def test_short_last_batch_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    DataLoader(options_for(2), Numbers(8), 2, drop_last=False)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, logger="poptorch::python"):
        DataLoader(options_for(2), Numbers(7), 2, drop_last=False)
    assert caplog.messages == [
        "The number of elements in the dataset (7) is not divisible by the number of elements "
        "processed per step (4) and drop_last=False. The last tensor will have a batch size of 3. "
        "To avoid having to handle this special case switch to drop_last=True"
    ]


def test_dataset_smaller_than_a_batch_has_length_0() -> None:
    loader = DataLoader(options_for(4), Numbers(7), 2)
    assert len(loader) == 0
    assert epochs(loader, 2) == [[], []]


def test_loader_freezes_the_options() -> None:
    options = options_for()
    loader = DataLoader(options, Numbers(4))
    assert loader.options is options
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.deviceIterations(2)


def test_options_must_be_poptorchs() -> None:
    with pytest.raises(AssertionError):
        DataLoader({}, Numbers(4))  # type: ignore[arg-type]


def test_workers_persist_by_default_if_there_are_any() -> None:
    assert not DataLoader(options_for(), Numbers(4)).persistent_workers
    assert DataLoader(options_for(), Numbers(4), num_workers=1).persistent_workers
    loader = DataLoader(options_for(), Numbers(4), num_workers=1, persistent_workers=False)
    assert not loader.persistent_workers


def test_order_is_torchs_for_the_same_seed() -> None:
    def order(loader: Any) -> List[List[float]]:
        torch.manual_seed(4)
        return [batch.tolist() for _ in range(3) for batch in loader]

    theirs = torch.utils.data.DataLoader(Numbers(12), 4, shuffle=True)
    assert order(DataLoader(options_for(2), Numbers(12), 2, shuffle=True)) == order(theirs)


# ---- batches that the dataset or a sampler makes


@MODES
def test_batch_sampler_chooses_micro_batches(mode: DataLoaderMode) -> None:
    sampler = [[3, 0], [2, 2], [1, 1]]
    loader = DataLoader(options_for(2), Numbers(4), batch_sampler=sampler, mode=mode)
    assert loader.combinedBatchSize is None
    assert len(loader) == 1
    assert epochs(loader, 2) == [[[3, 0, 2, 2]]] * 2
    loader = DataLoader(
        options_for(2), Numbers(4), batch_sampler=sampler, mode=mode, drop_last=False
    )
    assert len(loader) == 2
    assert epochs(loader) == [[[3, 0, 2, 2], [1, 1]]]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_micro_batches_of_a_batch_sampler_are_collated_one_by_one() -> None:
    def pad(samples: List[Tensor]) -> Pair:
        numbers = torch.stack(samples + [torch.tensor(-1.0)] * (3 - len(samples)))
        return Pair(numbers, 10 * numbers)

    sampler = [[0], [1, 2, 3], [4, 5]]
    loader = DataLoader(options_for(3), Numbers(6), batch_sampler=sampler, collate_fn=pad)
    (batch,) = loader
    assert batch.first.tolist() == [0, -1, -1, 1, 2, 3, 4, 5, -1]
    assert torch.equal(batch.second, 10 * batch.first)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 2}, {"shuffle": True}, {"options": "distributed"}]
)
def test_batch_sampler_excludes_what_it_replaces(arguments: Any) -> None:
    options = options_for()
    if arguments.pop("options", None):
        options.Distributed.configureProcessId(0, 2)
    with pytest.raises(poptorch.Error, match="batch_sampler is mutually exclusive"):
        DataLoader(options, Numbers(4), batch_sampler=[[0, 1]], **arguments)


def test_batch_sampler_of_torch() -> None:
    sampler = BatchSampler(SequentialSampler(range(7)), batch_size=2, drop_last=False)
    loader = DataLoader(options_for(2), Numbers(7), batch_sampler=sampler)
    assert epochs(loader) == [[[0, 1, 2, 3], [4, 5, 6]]]


@MODES
def test_iterable_datasets_are_cut_into_batches(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(2), Stream(), mode=mode)
    assert epochs(loader, 2) == [[[0, 1], [2, 3]]] * 2
    with pytest.raises(TypeError, match="has no len"):
        len(DataLoader(options_for(2), Stream()))


@pytest.mark.parametrize("mode", ALL_MODES[:2])
def test_dataset_that_makes_its_own_batches(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(), Stream(), None, drop_last=False, mode=mode)  # type: ignore[arg-type]
    assert loader.combinedBatchSize is None
    assert epochs(loader, 2) == [[0, 1, 2, 3, 4]] * 2  # type: ignore[comparison-overlap]


def test_iterable_dataset_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(options_for(), Stream(), shuffle=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than cores
@pytest.mark.parametrize("init", [None, id])
def test_workers_that_repeat_an_iterable_dataset_are_announced(
    init: Optional[Any], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {} if init is None else {"worker_init_fn": init}
    DataLoader(options_for(), Stream(), num_workers=3, **arguments)
    expected = "IterableDataset used with num_workers=3 but no worker_init_fn specified: as a " \
        "result the DataLoader will return 3 times each element in the dataset"  # fmt: skip
    assert [message.startswith(expected) for message in caplog.messages] == [True] * (init is None)
