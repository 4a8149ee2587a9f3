"""Batches of a call: their size, their order, and loading ahead."""

import threading
from typing import Any, Callable, Iterator, List, Optional

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from app.ipu_model import poptorch
from app.ipu_model.poptorch import AsynchronousDataAccessor, DataLoader, DataLoaderMode

MODES = pytest.mark.parametrize("mode", [DataLoaderMode.Sync, DataLoaderMode.Async])


class Numbers(Dataset):  # type: ignore[type-arg]
    """The numbers 0, 1, ...; calls ``read`` with each one that is read."""

    def __init__(self, count: int, read: Optional[Callable[[int], None]] = None) -> None:
        self.count = count
        self.read = read

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if self.read is not None:
            self.read(index)
        return torch.tensor(float(index))


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


def test_batches_fit_a_call_of_the_same_options() -> None:
    options = options_for(2, 1, 2)
    executor = poptorch.inferenceModel(torch.nn.Identity(), options)
    outputs = [executor(batch) for batch in DataLoader(options, Numbers(16), batch_size=2)]
    assert torch.equal(torch.cat(outputs), torch.arange(16.0))


def test_last_short_batch_is_dropped_unless_it_is_wanted() -> None:
    assert epochs(DataLoader(options_for(2), Numbers(5), 2)) == [[[0, 1, 2, 3]]]
    wanted = DataLoader(options_for(2), Numbers(5), 2, drop_last=False)
    assert epochs(wanted) == [[[0, 1, 2, 3], [4]]]


@MODES
def test_dataset_smaller_than_a_batch_has_length_0(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(4), Numbers(7), 2, mode=mode)
    assert len(loader) == 0
    assert epochs(loader, 2) == [[], []]


def test_loader_freezes_the_options() -> None:
    options = options_for()
    loader = DataLoader(options, Numbers(4))
    assert loader.options is options
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.deviceIterations(2)


@pytest.mark.parametrize("arguments", [{"batch_size": 2}, {"shuffle": True}])
def test_batch_sampler_excludes_batch_size_and_shuffle(arguments: Any) -> None:
    with pytest.raises(poptorch.Error, match="batch_sampler is mutually exclusive"):
        DataLoader(options_for(), Numbers(4), batch_sampler=[[0, 1]], **arguments)


@MODES
def test_batch_sampler_chooses_the_batches(mode: DataLoaderMode) -> None:
    sampler = [[3, 0], [2, 2]]
    loader = DataLoader(options_for(2), Numbers(4), batch_sampler=sampler, mode=mode)
    assert loader.combinedBatchSize is None
    assert epochs(loader) == [[[3, 0], [2, 2]]]


def test_rebatching_is_refused_by_name() -> None:
    with pytest.raises(poptorch.Error, match="AsyncRebatched is not modelled"):
        DataLoader(options_for(), Numbers(4), mode=DataLoaderMode.AsyncRebatched)
    with pytest.raises(AssertionError, match="rebatched_size"):
        AsynchronousDataAccessor(Numbers(4), rebatched_size=2)


class Stream(IterableDataset):  # type: ignore[type-arg]
    """The same five numbers without a length."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(5.0))


@MODES
def test_iterable_datasets_are_cut_into_batches(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(2), Stream(), mode=mode)
    assert epochs(loader, 2) == [[[0, 1], [2, 3]]] * 2


# ---- loading ahead


def shuffled(mode: DataLoaderMode, seed: int = 4, **arguments: Any) -> List[List[List[float]]]:
    torch.manual_seed(seed)
    loader = DataLoader(options_for(2), Numbers(12), 2, shuffle=True, mode=mode, **arguments)
    return epochs(loader, 3)


@pytest.mark.parametrize("buffer_size", [1, 3, 50])
@pytest.mark.parametrize("load_indefinitely", [True, False])
def test_asynchronous_batches_are_the_synchronous_ones(
    buffer_size: int, load_indefinitely: bool
) -> None:
    ahead = {"buffer_size": buffer_size, "load_indefinitely": load_indefinitely}
    found = shuffled(DataLoaderMode.Async, async_options=ahead)
    assert found == shuffled(DataLoaderMode.Sync)
    assert found[0] != found[1] != found[2]
    for epoch in found:
        assert sorted(number for batch in epoch for number in batch) == list(range(12))


@MODES
def test_order_follows_the_seed_of_the_host(mode: DataLoaderMode) -> None:
    assert shuffled(mode, seed=4) == shuffled(mode, seed=4) != shuffled(mode, seed=5)


@MODES
def test_workers_load_the_same_batches(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(2), Numbers(8), 2, num_workers=1, mode=mode)
    assert loader.persistent_workers
    assert epochs(loader, 2) == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2


def test_loading_ahead_does_not_draw_from_the_hosts_generator() -> None:
    loader = DataLoader(options_for(), Numbers(6), shuffle=True, mode=DataLoaderMode.Async)
    before = torch.get_rng_state()
    epochs(loader, 3)
    assert torch.equal(torch.get_rng_state(), before)


@MODES
def test_iteration_left_midway_starts_again(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(), Numbers(6), mode=mode)
    for batch in loader:
        if batch.item() == 2:
            break
    assert epochs(loader, 2) == [[[n] for n in range(6)]] * 2


def fail_at_3(index: int) -> None:
    if index == 3:
        raise ValueError("sample 3 cannot be read")


@MODES
def test_error_of_the_dataset_reaches_the_consumer(mode: DataLoaderMode) -> None:
    loader = DataLoader(options_for(2), Numbers(6, fail_at_3), mode=mode)
    seen = []
    for _ in range(2):
        with pytest.raises(ValueError, match="sample 3 cannot be read"):
            for batch in loader:
                seen.append(batch.tolist())
    assert seen == [[0, 1], [0, 1]]
    loader.terminate()


@pytest.mark.parametrize("load_indefinitely", [True, False])
def test_terminated_loader_has_no_thread_and_can_start_again(load_indefinitely: bool) -> None:
    before = set(threading.enumerate())
    loader = DataLoader(
        options_for(),
        Numbers(6),
        mode=DataLoaderMode.Async,
        async_options={"load_indefinitely": load_indefinitely},
    )
    assert set(threading.enumerate()) <= before
    next(iter(loader))
    assert not set(threading.enumerate()) <= before
    loader.terminate()
    assert set(threading.enumerate()) <= before
    loader.terminate()
    assert epochs(loader) == [[[n] for n in range(6)]]
    assert set(threading.enumerate()) <= before


def test_terminating_a_synchronous_loader_does_nothing() -> None:
    loader = DataLoader(options_for(), Numbers(2))
    loader.terminate()
    assert epochs(loader) == [[[0], [1]]]


@pytest.mark.parametrize("early_preload", [True, False])
def test_early_preload_reads_before_the_first_iteration(early_preload: bool) -> None:
    read = threading.Event()
    loader = DataLoader(
        options_for(),
        Numbers(6, lambda index: read.set()),
        mode=DataLoaderMode.Async,
        async_options={"early_preload": early_preload},
    )
    if early_preload:
        assert read.wait(timeout=30)
    else:
        assert not read.is_set()
    assert epochs(loader) == [[[n] for n in range(6)]]


def test_loading_indefinitely_begins_the_next_epoch_by_itself() -> None:
    counts, second_epoch = [0, 0], threading.Event()

    def read(index: int) -> None:
        counts[index] += 1
        if counts[0] == 2:
            second_epoch.set()

    loader = DataLoader(options_for(), Numbers(2, read), mode=DataLoaderMode.Async)
    iterator = iter(loader)
    next(iterator), next(iterator)
    assert second_epoch.wait(timeout=30)
    loader.terminate()


def test_loading_one_epoch_at_a_time_waits_for_the_next_iteration() -> None:
    counts = [0, 0]

    def read(index: int) -> None:
        counts[index] += 1

    loader = DataLoader(
        options_for(),
        Numbers(2, read),
        mode=DataLoaderMode.Async,
        async_options={"load_indefinitely": False},
    )
    for epoch in (1, 2):
        assert [batch.item() for batch in loader] == [0, 1]
        assert counts == [epoch, epoch]
    loader.terminate()


def test_accessor_serves_any_iterable_of_batches() -> None:
    batches = [torch.ones(2), torch.zeros(2)]
    accessor = AsynchronousDataAccessor(batches, load_indefinitely=False)  # type: ignore[arg-type]
    assert len(accessor) == 2
    for _ in range(2):
        assert [batch.sum().item() for batch in accessor] == [2, 0]
    accessor.terminate()
    with pytest.raises(StopIteration):
        next(accessor)
