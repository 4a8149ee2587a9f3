"""Batches made of other batches: the same samples in the same order."""

from typing import List

import torch
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.poptorch._data.regroup import groups_of_batches, groups_of_samples


@given(st.lists(st.integers(1, 6), max_size=8), st.integers(1, 7), st.booleans())
def test_regrouped_samples_are_the_samples_in_order(
    sizes: List[int], size: int, drop_last: bool
) -> None:
    samples = torch.arange(sum(sizes))
    pieces = [(piece, 2 * piece) for piece in samples.split(sizes)] if sizes else []
    found = list(groups_of_samples(pieces, size, drop_last))
    count = len(samples) // size if drop_last else -(-len(samples) // size)
    assert len(found) == count
    assert all(len(batch) == size for batch, _ in found[:-1])
    together = torch.cat([batch for batch, _ in found]) if found else samples[:0]
    assert torch.equal(together, samples[: count * size])
    assert all(torch.equal(2 * batch, double) for batch, double in found)


@given(st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_regrouped_batches_are_joined_in_order(count: int, size: int, drop_last: bool) -> None:
    batches = [torch.full((2,), number) for number in range(count)]
    found = [batch.tolist() for batch in groups_of_batches(batches, size, drop_last)]
    expected = [
        [number for number in range(first, min(first + size, count)) for _ in range(2)]
        for first in range(0, count, size)
        if not drop_last or first + size <= count
    ]
    assert found == expected
