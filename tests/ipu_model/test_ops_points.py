"""Sampling and look-up in point clouds against their definitions."""

import math
from typing import Any, Callable, List

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from app.ipu_model import poptorch
from tests.ipu_model.capturing import run_on_device


def clouds(sizes: List[int], seed: int) -> Tensor:
    return torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed))


def pointers(sizes: List[int]) -> List[int]:
    return [sum(sizes[:b]) for b in range(len(sizes) + 1)]


def batch(sizes: List[int]) -> List[int]:
    return [b for b, size in enumerate(sizes) for _ in range(size)]


# ---- farthest points


def test_each_sample_is_the_farthest_from_those_before() -> None:
    line = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    assert poptorch.fps(line, [0, 4], 1.0).tolist() == [0, 2, 3, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.floats(0.05, 1.0), st.integers())
def test_samples_are_distinct_and_as_many_as_asked_for(
    sizes: List[int], ratio: float, seed: int
) -> None:
    points, ptr = clouds(sizes, seed % 1000), pointers(sizes)
    sampled = poptorch.fps(points, ptr, ratio)
    assert len(set(sampled.tolist())) == len(sampled)
    for first, end in zip(ptr, ptr[1:]):
        inside = [i for i in sampled.tolist() if first <= i < end]
        assert len(inside) == math.ceil(float(torch.tensor(float(end - first)) * ratio))
        assert inside[0] == first


def test_sampling_may_start_anywhere() -> None:
    torch.manual_seed(0)
    starts = {int(poptorch.fps(clouds([8], 1), [0, 8], 0.1, True)[0]) for _ in range(40)}
    assert len(starts) > 3
    assert starts <= set(range(8))


def test_sampling_works_in_an_executor() -> None:
    points = clouds([5, 4], 2)
    expected = poptorch.fps(points, [0, 5, 9], 0.5)
    assert torch.equal(run_on_device(lambda x: poptorch.fps(x, [0, 5, 9], 0.5), points), expected)


# ---- nearest points


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
       st.integers(0, 99))  # fmt: skip
def test_nearest_point_is_in_the_same_cloud_and_none_is_nearer(sizes: Any, seed: int) -> None:
    of_x, of_y = [a for a, _ in sizes], [b for _, b in sizes]
    x, y, batch_x, batch_y = clouds(of_x, seed), clouds(of_y, seed + 1), batch(of_x), batch(of_y)
    found = poptorch.nearest(x, y, batch_x, batch_y).tolist()
    for point, cloud, index in zip(x, batch_x, found):
        assert batch_y[index] == cloud
        distances = [float((point - other).norm()) for other in y]
        assert distances[index] <= min(
            distance for distance, b in zip(distances, batch_y) if b == cloud
        ) + 1e-5  # fmt: skip


def test_batches_may_be_lists_tensors_or_missing() -> None:
    x, y = clouds([2, 3], 3), clouds([2, 2], 4)
    ids_x, ids_y = batch([2, 3]), batch([2, 2])
    expected = poptorch.nearest(x, y, ids_x, ids_y)
    for batch_x in (ids_x, torch.tensor(ids_x)):
        for batch_y in (ids_y, torch.tensor(ids_y)):
            assert torch.equal(poptorch.nearest(x, y, batch_x, batch_y), expected)
    assert torch.equal(poptorch.nearest(x, y), torch.cdist(x, y).argmin(1))
    assert torch.equal(poptorch.nearest(x, y, [0] * 5), torch.cdist(x, y).argmin(1))
    on_line = poptorch.nearest(torch.tensor([0.1, 2.9]), torch.tensor([0.0, 1.0, 3.0]))
    assert on_line.tolist() == [0, 2]


def test_look_up_works_in_an_executor() -> None:
    x, y = clouds([4], 5), clouds([4], 6)
    assert torch.equal(run_on_device(poptorch.nearest, x, y), poptorch.nearest(x, y))


# ---- refused arguments

P = torch.zeros(3, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: poptorch.fps([1], [0, 1]), r"`fps` must take a torch.tensor input. <class 'list'"),
        (lambda: poptorch.fps(P, (0, 3)), r"`ptr` must be a list of integers\."),
        (lambda: poptorch.fps(P, [0]), r"`ptr` must containt at least 2 elements\."),
        (lambda: poptorch.fps(P, [0, 3], 1), r"`ratio` must be of float type. <class 'int'> is no"),
        (lambda: poptorch.fps(P, [0, 3], 0.5, 1), r"`random_start` must be of bool type. <class"),
        (lambda: poptorch.nearest(1, P), r"`nearest` must take a torch.tensor `x` input. <class '"),
        (lambda: poptorch.nearest(P, 1), r"`nearest` must take a torch.tensor `y` input. <class '"),
        (lambda: poptorch.nearest(P, P, (0,), [0]), r"`batch_x` is of type <class 'tuple'> and `b"),
    ],
)  # fmt: skip
def test_other_types_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: poptorch.nearest(P, torch.zeros(2, 3)), r"x.shape\[1\]=2 vs. y.shape\[1\]=3"),
        (lambda: poptorch.nearest(P[None], P), r"max 2D tensors, while `x` has 3 dims and `y` has"),
        (lambda: poptorch.nearest(P, P, [0, 1, 0]), r"'batch_x' is not sorted"),
        (lambda: poptorch.nearest(P, P, [0, 0]), r"x.size\(0\) == batch_x.size\(0\)"),
        (lambda: poptorch.nearest(P, P, [0, 0, 1], [0, 0, 0]), r"Some batch indices occur in 'bat"),
    ],
)  # fmt: skip
def test_clouds_that_do_not_match_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
