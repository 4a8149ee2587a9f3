"""Loading ahead in worker processes."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, List, Optional

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from app.ipu_model import poptorch
from app.ipu_model.poptorch import AsynchronousDataAccessor, DataLoader, DataLoaderMode
from tests.ipu_model.test_dataloader import MODES, Numbers, epochs, options_for

AHEAD = pytest.mark.parametrize("mode", [DataLoaderMode.Async, DataLoaderMode.AsyncRebatched])
FAILED = r"AsynchronousDataAccessor worker thread failed to start \(Check above for details\)"


class Calls(Dataset):  # type: ignore[type-arg]
    """The numbers 0, 1, ...; counts the reads of each in memory that processes share."""

    def __init__(self, count: int, read: Optional[Callable[[int], None]] = None) -> None:
        self.reads = torch.zeros(count, dtype=torch.int64).share_memory_()
        self.changed = multiprocessing.get_context("fork").Condition()
        self.read = read

    def __len__(self) -> int:
        return len(self.reads)

    def __getitem__(self, index: int) -> Tensor:
        with self.changed:
            self.reads[index] += 1
            self.changed.notify_all()
        if self.read is not None:
            self.read(index)
        return torch.tensor(float(index))

    def wait_for(self, condition: Callable[[Tensor], Any]) -> bool:
        """Whether the counts come to fulfil a condition within half a minute."""
        with self.changed:
            return self.changed.wait_for(lambda: bool(condition(self.reads)), timeout=30)


def loader_of(
    dataset: "Dataset[Any]", iterations: int = 1, batch_size: int = 1, **arguments: Any
) -> DataLoader:
    arguments.setdefault("mode", DataLoaderMode.Async)
    return DataLoader(options_for(iterations), dataset, batch_size, **arguments)


# ---- the same batches


def shuffled(mode: DataLoaderMode, seed: int = 4, **arguments: Any) -> List[List[List[float]]]:
    torch.manual_seed(seed)
    return epochs(loader_of(Numbers(12), 2, 2, shuffle=True, mode=mode, **arguments), 3)


@AHEAD
@pytest.mark.parametrize("buffer_size", [1, 3, 50])
@pytest.mark.parametrize("load_indefinitely", [True, False])
def test_asynchronous_batches_are_the_synchronous_ones(
    mode: DataLoaderMode, buffer_size: int, load_indefinitely: bool
) -> None:
    ahead = {"buffer_size": buffer_size, "load_indefinitely": load_indefinitely}
    found = shuffled(mode, async_options=ahead)
    assert found == shuffled(DataLoaderMode.Sync)
    assert found[0] != found[1] != found[2]
    for epoch in found:
        assert sorted(number for batch in epoch for number in batch) == list(range(12))


@MODES
@pytest.mark.parametrize("persistent", [True, False])
def test_workers_load_the_same_batches(mode: DataLoaderMode, persistent: bool) -> None:
    workers: Dict[str, Any] = {"num_workers": 2, "persistent_workers": persistent}
    assert shuffled(mode, **workers) == shuffled(DataLoaderMode.Sync, **workers)


@MODES
def test_order_follows_the_seed_of_the_host(mode: DataLoaderMode) -> None:
    assert shuffled(mode, seed=4) == shuffled(mode, seed=4) != shuffled(mode, seed=5)


@MODES
def test_order_follows_the_generator_given(mode: DataLoaderMode) -> None:
    def order(seed: int) -> List[List[List[float]]]:
        return shuffled(mode, generator=torch.Generator().manual_seed(seed))

    assert order(1) == order(1) != order(2)


def test_loading_ahead_does_not_draw_from_the_hosts_generator() -> None:
    loader = loader_of(Numbers(6), shuffle=True)
    before = torch.get_rng_state()
    epochs(loader, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_iterations_left_midway_draw_the_orders_that_synchronous_ones_draw(workers: int) -> None:
    def heads(mode: DataLoaderMode) -> List[List[float]]:
        torch.manual_seed(1)
        loader = loader_of(Numbers(6), shuffle=True, mode=mode, num_workers=workers)
        found = []
        for taken in (2, 6, 1, 6):
            batches = iter(loader)
            found.append([next(batches).item() for _ in range(taken)])
        loader.terminate()
        return found

    assert heads(DataLoaderMode.Async) == heads(DataLoaderMode.Sync)


@AHEAD
def test_rebatched_workers_load_smaller_batches(mode: DataLoaderMode) -> None:
    loader = loader_of(
        Numbers(14), 2, 3, mode=DataLoaderMode.AsyncRebatched, rebatched_worker_size=4
    )
    assert (len(loader), loader.batch_size, loader.combinedBatchSize) == (2, 4, 6)
    assert epochs(loader, 2) == [[list(range(6)), list(range(6, 12))]] * 2


def test_worker_batches_cannot_exceed_the_combined_ones() -> None:
    message = r"The rebatched_worker_size \(5\) must be <= to the combined batch size \(4\)"
    with pytest.raises(AssertionError, match=message):
        loader_of(Numbers(8), 2, 2, mode=DataLoaderMode.AsyncRebatched, rebatched_worker_size=5)


# ---- processes


class ProcessIds(Numbers):
    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(os.getpid())


def children() -> int:
    return len(multiprocessing.active_children())


def test_loading_happens_in_one_other_process() -> None:
    (first, *others), (again, *_) = epochs(loader_of(ProcessIds(3)), 2)
    assert others == [first] * 2 == [again] * 2
    assert first != [os.getpid()]


@AHEAD
def test_terminated_loader_has_no_process_and_cannot_be_iterated(mode: DataLoaderMode) -> None:
    before, threads = children(), set(threading.enumerate())
    loader = loader_of(Numbers(6), 2, mode=mode, num_workers=1)
    next(iter(loader))
    assert children() == before + 1
    loader.terminate()
    loader.terminate()
    assert children() == before
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=30)  # feeds a queue that is closed
        assert not thread.is_alive()
    with pytest.raises(AssertionError, match="terminate"):
        iter(loader)


def test_terminating_a_synchronous_loader_does_nothing() -> None:
    loader = DataLoader(options_for(), Numbers(2))
    loader.terminate()
    assert epochs(loader) == [[[0], [1]]]


@AHEAD
def test_forgotten_loader_has_no_process(mode: DataLoaderMode) -> None:
    before = children()
    loader = loader_of(Numbers(6), 2, mode=mode)
    batches = iter(loader)
    next(batches)
    del loader
    assert children() == before + 1
    assert next(batches).tolist() == [2, 3]
    del batches
    gc.collect()
    assert children() == before


PROGRAM = """
import os, signal, torch
from app.ipu_model import poptorch

class Squares(torch.utils.data.Dataset):
    unpicklable = lambda self, index: torch.tensor(index * index)
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return self.unpicklable(index)

loader = poptorch.DataLoader(
    poptorch.Options(), Squares(), 4, mode=poptorch.DataLoaderMode.Async
)
batches = iter(loader)
print(next(batches).tolist(), flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "end, code", [("", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]
)
def test_workers_of_a_program_without_a_guard_end_with_it(end: str, code: int) -> None:
    # returns only when no process has the program's output open any more
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 1, 4, 9]\n", "", code)


def started(worker: int) -> None:
    torch.manual_seed(100 + worker)


@MODES
def test_worker_init_function_runs_in_the_workers(mode: DataLoaderMode) -> None:
    def draw(samples: List[Tensor]) -> Tensor:
        return torch.rand(len(samples))

    loader = loader_of(
        Numbers(2), 2, mode=mode, num_workers=1, worker_init_fn=started, collate_fn=draw
    )
    expected = torch.rand(2, generator=torch.Generator().manual_seed(100))
    assert torch.equal(next(iter(loader)), expected)
    loader.terminate()


def die_at_3(index: int) -> None:
    if index == 3:
        os._exit(7)


def test_worker_that_dies_ends_the_iteration_with_an_error() -> None:
    loader = loader_of(Calls(6, die_at_3), async_options={"buffer_size": 1})
    before = children()
    with pytest.raises(RuntimeError, match=r"worker .* exited unexpectedly"):
        for _ in loader:
            pass
    assert children() == before
    loader.terminate()


# ---- errors


def fail_at_3(index: int) -> None:
    if index == 3:
        raise ValueError("sample 3 cannot be read")


@MODES
def test_error_of_the_dataset_reaches_the_consumer(mode: DataLoaderMode) -> None:
    loader = loader_of(Calls(6, fail_at_3), 2, mode=mode)
    seen = []
    for _ in range(2):
        with pytest.raises(ValueError, match="sample 3 cannot be read"):
            for batch in loader:
                seen.append(batch.tolist())
    assert seen == [[0, 1], [0, 1]]
    loader.terminate()


@AHEAD
def test_error_at_the_first_batch_is_a_failed_start(mode: DataLoaderMode) -> None:
    loader = loader_of(Calls(6, fail_at_3), 6, mode=mode)
    with pytest.raises(poptorch.Error, match=FAILED) as error:
        next(iter(loader))
    assert "sample 3 cannot be read" in str(error.value.__cause__)
    loader.terminate()


def test_empty_dataset_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(poptorch.Error, match=FAILED):
        loader_of(Numbers(3), 4)
    assert caplog.messages == ["The Dataset is empty"]
    with pytest.raises(poptorch.Error, match=FAILED):
        AsynchronousDataAccessor([])  # type: ignore[arg-type]


# ---- epochs


@AHEAD
def test_iteration_left_midway_starts_again(mode: DataLoaderMode) -> None:
    loader = loader_of(Numbers(6), 2, mode=mode)
    for batch in loader:
        if batch[0] == 2:
            break
    assert epochs(loader, 2) == [[[0, 1], [2, 3], [4, 5]]] * 2


def test_iterator_of_which_nothing_was_taken_is_kept() -> None:
    torch.manual_seed(0)
    loader = loader_of(Numbers(50), shuffle=True)
    iter(loader), iter(loader)
    torch.manual_seed(0)
    assert epochs(loader) == epochs(loader_of(Numbers(50), shuffle=True))


@pytest.mark.parametrize("early_preload", [True, False])
def test_early_preload_reads_before_the_first_iteration(early_preload: bool) -> None:
    dataset = Calls(6)
    loader = loader_of(dataset, async_options={"early_preload": early_preload})
    if early_preload:
        assert dataset.wait_for(lambda reads: reads[0] == 1)
    else:
        assert not dataset.reads.any()
    assert epochs(loader) == [[[n] for n in range(6)]]


def test_loading_indefinitely_begins_the_next_epoch_by_itself() -> None:
    dataset = Calls(2)
    loader = loader_of(dataset)
    batches = iter(loader)
    next(batches), next(batches)
    assert dataset.wait_for(lambda reads: reads[0] == 2)
    loader.terminate()


def test_loading_one_epoch_at_a_time_waits_for_the_next_iteration() -> None:
    dataset = Calls(2)
    loader = loader_of(dataset, async_options={"load_indefinitely": False})
    for epoch in (1, 2):
        assert [batch.item() for batch in loader] == [0, 1]
        assert dataset.reads.tolist() == [epoch, epoch]
    loader.terminate()


def test_batches_stay_valid_after_the_next_one() -> None:
    loader = loader_of(Numbers(20), async_options={"buffer_size": 1})
    kept = list(loader)
    assert [batch.item() for batch in kept] == list(range(20))
    loader.terminate()
