"""``AsynchronousDataAccessor``: what it serves, in which types, and what it refuses."""

import warnings
from typing import Any, Iterator, List

import pytest
import torch
from torch import Tensor

from app.ipu_model import poptorch
from app.ipu_model.poptorch import AsynchronousDataAccessor, DataLoader, DataLoaderMode
from app.ipu_model.poptorch._data.structure import ICustomArgParser, registerCustomArgParser
from tests.ipu_model.test_dataloader import Numbers, Stream, options_for
from tests.ipu_model.test_dataloader_async import AHEAD, FAILED, loader_of


@pytest.mark.parametrize("load_indefinitely", [True, False])
def test_accessor_serves_any_iterable_of_batches(load_indefinitely: bool) -> None:
    batches = [torch.ones(2), torch.zeros(2)]
    accessor = AsynchronousDataAccessor(batches, load_indefinitely=load_indefinitely)  # type: ignore[arg-type]
    assert len(accessor) == 2
    for _ in range(2):
        assert [batch.sum().item() for batch in accessor] == [2, 0]
    accessor.terminate()


def test_accessor_serves_datasets_and_loaders() -> None:
    samples = AsynchronousDataAccessor(Numbers(3))
    assert (len(samples), [n.item() for n in samples]) == (3, [0, 1, 2])
    theirs = AsynchronousDataAccessor(torch.utils.data.DataLoader(Numbers(5), 2))
    assert (len(theirs), [b.tolist() for b in theirs]) == (3, [[0, 1], [2, 3], [4]])
    ours = AsynchronousDataAccessor(DataLoader(options_for(2), Numbers(9), 2), rebatched_size=3)
    assert (len(ours), [b.tolist() for b in ours]) == (2, [[0, 1, 2], [3, 4, 5]])
    stream = AsynchronousDataAccessor(Stream())
    assert [[n.item() for n in stream] for _ in range(2)] == [[0, 1, 2, 3, 4]] * 2
    for accessor in (samples, theirs, ours, stream):
        accessor.terminate()


def test_accessor_options_have_poptorchs_names() -> None:
    accessor = AsynchronousDataAccessor(
        Numbers(4),
        buffer_size=2,
        miss_sleep_time_in_ms=0.5,
        load_indefinitely=True,
        early_preload=False,
        sharing_strategy=poptorch.SharingStrategy.SharedMemory,
        rebatched_size=None,
    )
    assert accessor.sharing_strategy is poptorch.SharingStrategy.SharedMemory
    assert accessor.miss_sleep_time_in_ms == 0.5
    assert accessor.rebatched_size is None
    accessor.terminate()


class Batch:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class BatchParser(ICustomArgParser):
    def yieldTensors(self, struct: Batch) -> Iterator[Tensor]:
        yield struct.x
        yield struct.y

    def reconstruct(self, original_structure: Any, tensor_iterator: Iterator[Tensor]) -> Batch:
        return Batch(next(tensor_iterator), next(tensor_iterator))


@pytest.fixture
def custom_batches() -> Iterator[None]:
    registerCustomArgParser(Batch, BatchParser())
    yield
    registerCustomArgParser(Batch, None)


@AHEAD
def test_batches_may_be_of_registered_types(mode: DataLoaderMode, custom_batches: None) -> None:
    def collate(samples: List[Tensor]) -> Batch:
        return Batch(torch.stack(samples), -torch.stack(samples))

    loader = loader_of(Numbers(7), 3, collate_fn=collate, mode=mode, rebatched_worker_size=2)
    batches = list(loader)
    assert [(batch.x.tolist(), batch.y.sum().item()) for batch in batches] == [
        ([0, 1, 2], -3),
        ([3, 4, 5], -12),
    ]
    loader.terminate()


@AHEAD
def test_batches_may_be_dictionaries(mode: DataLoaderMode) -> None:
    data = [{"x": torch.tensor(n), "y": torch.tensor(-n)} for n in range(5)]
    loader = loader_of(data, 2, mode=mode)  # type: ignore[arg-type]
    assert [(b["x"].tolist(), b["y"].tolist()) for b in loader] == [
        ([0, 1], [0, -1]),
        ([2, 3], [-2, -3]),
    ]
    loader.terminate()


def test_executor_consumes_what_is_loaded_ahead() -> None:
    options = options_for(2)
    executor = poptorch.inferenceModel(torch.nn.Identity(), options)
    loader = DataLoader(options, Numbers(8), 2, mode=DataLoaderMode.Async)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.cat([executor(batch) for batch in loader])
    assert torch.equal(found, torch.arange(8.0))
    loader.terminate()


# ---- refusals


def test_empty_stream_is_refused_when_it_is_iterated() -> None:
    accessor = AsynchronousDataAccessor(iter(()))  # type: ignore[arg-type]
    with pytest.raises(poptorch.Error, match=FAILED):
        next(accessor)


@pytest.mark.parametrize("item", [(torch.ones(1), "name"), {"x": [torch.ones(1)]}])
def test_items_must_be_flat(item: Any) -> None:
    accessor = AsynchronousDataAccessor([item])  # type: ignore[arg-type]
    with pytest.raises(poptorch.Error, match=FAILED) as caught:
        next(accessor)
    assert "flat 1D container of tensors" in str(caught.value.__cause__)
    accessor.terminate()


def test_loader_can_have_one_accessor_only() -> None:
    with pytest.raises(poptorch.Error, match="already uses an AsynchronousDataAccessor"):
        AsynchronousDataAccessor(loader_of(Numbers(4)))


def test_size_of_rebatched_items_is_checked() -> None:
    with pytest.raises(AssertionError, match="rebatched_size must be None or greater than 1"):
        AsynchronousDataAccessor(Numbers(4), rebatched_size=1)
    with pytest.raises(AssertionError, match="manually specify the rebatched_size"):
        loader_of(Numbers(4), async_options={"rebatched_size": 2})
    short = DataLoader(options_for(), Numbers(4), 3, drop_last=False)
    with pytest.raises(AssertionError, match="only works if 'rebatched_size' is specified too"):
        AsynchronousDataAccessor(short)
