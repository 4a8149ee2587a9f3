"""Which samples each process of a distributed run loads."""

from typing import List, Optional

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from app.ipu_model import poptorch
from app.ipu_model.poptorch import DataLoader, DataLoaderMode
from app.ipu_model.poptorch._data.partition import Partition
from tests.ipu_model.test_dataloader import Numbers, Stream, epochs, options_for

SIZES = {
    "size": st.integers(1, 200),
    "processes": st.integers(1, 5),
    "batch_size": st.integers(1, 7),
    "seed": st.none() | st.integers(0, 3),
}


@given(**SIZES)
def test_blocks_are_equal_disjoint_and_hold_whole_batches(
    size: int, processes: int, batch_size: int, seed: Optional[int]
) -> None:
    whole_batches = size // (batch_size * processes)
    if not whole_batches:
        with pytest.raises(ZeroDivisionError):
            Partition(size, processes, 0, batch_size, seed=seed)
        return
    parts = [Partition(size, processes, p, batch_size, seed=seed) for p in range(processes)]
    for _ in range(3):
        blocks = [list(part) for part in parts]
        assert {len(block) for block in blocks} == {whole_batches * batch_size}
        assert {len(part) for part in parts} == {whole_batches * batch_size}
        together = [index for block in blocks for index in block]
        assert len(set(together)) == len(together)
        assert set(together) <= set(range(size))
        if seed is None:
            assert together == list(range(len(together)))


@given(**SIZES)
def test_blocks_cover_the_dataset_when_nothing_may_be_dropped(
    size: int, processes: int, batch_size: int, seed: Optional[int]
) -> None:
    parts = [
        Partition(size, processes, p, batch_size, drop_last=False, seed=seed)
        for p in range(processes)
    ]
    blocks = [list(part) for part in parts]
    assert sorted(index for block in blocks for index in block) == list(range(size))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert [len(part) for part in parts] == [len(block) for block in blocks]


@given(**SIZES)
def test_blocks_of_a_shuffled_epoch_start_at_the_left_over_and_at_0_in_turn(
    size: int, processes: int, batch_size: int, seed: Optional[int]
) -> None:
    block = batch_size * (size // (batch_size * processes))
    if not block:
        return
    seed = seed or 0
    parts = [Partition(size, processes, p, batch_size, seed=seed) for p in range(processes)]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(4):
        order = torch.randperm(size, generator=generator).tolist()
        start = 0 if epoch % 2 else size % block
        for process, part in enumerate(parts):
            first = start + process * block
            assert list(part) == order[first : first + block]


def loader_of(
    process: int,
    processes: int = 2,
    shuffle: bool = False,
    mode: DataLoaderMode = DataLoaderMode.Sync,
    seed: Optional[int] = 3,
    **arguments: object,
) -> DataLoader:
    options = options_for(2)
    options.Distributed.configureProcessId(process, processes)
    if seed is not None:
        options.randomSeed(seed)
    return DataLoader(options, Numbers(19), 2, shuffle, mode=mode, **arguments)  # type: ignore[arg-type]


def test_each_process_loads_its_block() -> None:
    assert len(loader_of(1)) == 2
    assert epochs(loader_of(0), 2) == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2
    assert epochs(loader_of(1), 2) == [[[8, 9, 10, 11], [12, 13, 14, 15]]] * 2


@pytest.mark.parametrize("mode", list(DataLoaderMode))
def test_shuffled_blocks_are_parts_of_one_permutation(mode: DataLoaderMode) -> None:
    found = [epochs(loader_of(process, shuffle=True, mode=mode), 3) for process in (0, 1)]
    order = torch.Generator().manual_seed(3)
    for epoch in range(3):
        permutation = torch.randperm(19, generator=order).tolist()
        start = 0 if epoch % 2 else 3
        together = [n for process in found for batch in process[epoch] for n in batch]
        assert together == permutation[start : start + 16]


def test_partitioning_can_be_left_to_the_program() -> None:
    loader = loader_of(1, auto_distributed_partitioning=False)
    assert epochs(loader)[0][0] == [0, 1, 2, 3]


def test_sampler_of_the_program_chooses_within_the_block() -> None:
    loader = loader_of(1, sampler=[7, 0, 1, 2])
    assert epochs(loader, 2) == [[[15, 8, 9, 10]]] * 2


def test_remainder_is_spread_over_the_processes_unless_dropped() -> None:
    found: List[List[float]] = [
        [n for batch in epochs(loader_of(p, 3, drop_last=False))[0] for n in batch]
        for p in range(3)
    ]
    assert found == [list(range(7)), list(range(7, 13)), list(range(13, 19))]


def test_shuffling_needs_a_seed() -> None:
    with pytest.raises(AssertionError, match=r"you must set poptorch.Options.randomSeed\(\)"):
        loader_of(0, shuffle=True, seed=None)


def test_partitioned_dataset_cannot_make_its_own_batches() -> None:
    options = poptorch.Options()
    options.Distributed.configureProcessId(0, 2)
    with pytest.raises(AssertionError, match="batch_size=None not allowed"):
        DataLoader(options, TensorDataset(torch.ones(4)), None, drop_last=False)  # type: ignore[arg-type]


def test_too_few_samples_for_all_processes() -> None:
    with pytest.raises(ZeroDivisionError):
        loader_of(0, processes=5)


def test_iterable_datasets_are_not_partitioned() -> None:
    options = poptorch.Options()
    options.Distributed.configureProcessId(0, 2)
    with pytest.raises(AssertionError, match="not supported for IterableDataset"):
        DataLoader(options, Stream())
    assert epochs(DataLoader(options, Stream(), auto_distributed_partitioning=False))
