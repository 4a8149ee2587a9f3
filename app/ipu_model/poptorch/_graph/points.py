"""Operations on point clouds, as torch_cluster defines them.

Source: graphcore/poptorch, python/ops.py, poptorch/source/popart_canonicalization (SDK 3.4);
rusty1s/pytorch_cluster, csrc/cpu/fps_cpu.cpp and torch_cluster/nearest.py.
"""

from typing import Any, List, Optional, Union

import torch

from app.ipu_model.poptorch._graph.device_operations import device_operation, on_host
from app.ipu_model.poptorch.errors import Error


def fps(
    src: torch.Tensor, ptr: List[int], ratio: float = 0.5, random_start: bool = False
) -> torch.Tensor:
    """Sample points, each the farthest from those sampled before it.

    Args:
        src: points, [n, ...].
        ptr: cloud b consists of the points ptr[b] to ptr[b + 1] - 1.
        ratio: share of each cloud's points to sample, rounded up.
        random_start: start at a random point rather than at a cloud's first one.

    Returns:
        Indices of the sampled points.

    Raises:
        Error: arguments of other types, or fewer than two pointers.
    """
    if not isinstance(src, torch.Tensor):
        raise Error(f"`fps` must take a torch.tensor input. {type(src)} is not supported.")
    if not isinstance(ptr, list):
        raise Error("`ptr` must be a list of integers.")
    if len(ptr) < 2:
        raise Error("`ptr` must containt at least 2 elements.")
    if not isinstance(ratio, float):
        raise Error(f"`ratio` must be of float type. {type(ratio)} is not supported.")
    if not isinstance(random_start, bool):
        raise Error(f"`random_start` must be of bool type. {type(random_start)} is not supported.")
    return sample_farthest(src, ptr, ratio, random_start)


@device_operation
def sample_farthest(
    src: torch.Tensor, ptr: List[int], ratio: float, random_start: bool
) -> torch.Tensor:
    """``fps`` without checks of the arguments' types."""
    with on_host():
        points = src.detach().float().reshape(src.shape[0], -1)
        sampled: List[int] = []
        for first, end in zip(ptr, ptr[1:]):
            wanted = int((torch.tensor(float(end - first)) * ratio).ceil())
            start = int(torch.randint(end - first, ())) if random_start and wanted else 0
            sampled += [first + index for index in _farthest(points[first:end], wanted, start)]
        return torch.tensor(sampled, dtype=torch.long)


def _farthest(cloud: torch.Tensor, wanted: int, start: int) -> List[int]:
    chosen: List[int] = []
    distance = torch.full((len(cloud),), float("inf"))
    while len(chosen) < wanted:
        chosen.append(int(distance.argmax()) if chosen else start)
        distance = torch.minimum(distance, (cloud - cloud[chosen[-1]]).square().sum(1))
    return chosen


_Batch = Optional[Union[List[int], torch.Tensor]]


def nearest(
    x: torch.Tensor, y: torch.Tensor, batch_x: _Batch = None, batch_y: _Batch = None
) -> torch.Tensor:
    """For each point of ``x``, the index of the nearest point of ``y`` in the same cloud.

    Args:
        x: points, [n, d] or [n].
        y: points, [m, d] or [m].
        batch_x: cloud of each point of ``x``, ascending; all are in cloud 0 when None.
        batch_y: the same for ``y``.

    Raises:
        Error: arguments of other types.
        ValueError: shapes that do not match, or a cloud that only one side has.
    """
    for name, points in (("x", x), ("y", y)):
        if not isinstance(points, torch.Tensor):
            raise Error(f"`nearest` must take a torch.tensor `{name}` input. {type(points)} is not "
                        "supported.")  # fmt: skip
    batch_x = [] if batch_x is None else batch_x
    batch_y = [] if batch_y is None else batch_y
    if not all(isinstance(batch, (list, torch.Tensor)) for batch in (batch_x, batch_y)):
        raise Error(
            "`batch_x` and `batch_y` must be torch.Tensors or lists while `batch_x` is of type "
            f"{type(batch_x)} and `batch_y` is of type {type(batch_y)}."
        )
    return index_of_nearest(x, y, batch_x, batch_y)


@device_operation
def index_of_nearest(x: torch.Tensor, y: torch.Tensor, batch_x: Any, batch_y: Any) -> torch.Tensor:
    """``nearest`` without checks of the arguments' types; an empty batch means cloud 0."""
    with on_host():
        x, y = (_as_points(x), _as_points(y))
        if x.dim() > 2 or y.dim() > 2:
            raise ValueError(
                "Inputs `x` and `y` should be max 2D tensors, while `x` has "
                f"{x.dim()} dims and `y` has {y.dim()} dims."
            )
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"Inputs shapes inconsistent x.shape[1]={x.shape[1]} vs. "
                             f"y.shape[1]={y.shape[1]}")  # fmt: skip
        clouds_x, clouds_y = _clouds(x, batch_x, "x"), _clouds(y, batch_y, "y")
        if not torch.equal(clouds_x.unique_consecutive(), clouds_y.unique_consecutive()):
            raise ValueError("Some batch indices occur in 'batch_x' that do not occur in 'batch_y'")
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(x, y, compute_mode=exact)
        elsewhere = clouds_x[:, None] != clouds_y[None, :]
        return distances.masked_fill(elsewhere, float("inf")).argmin(1)


def _as_points(x: torch.Tensor) -> torch.Tensor:
    x = x.detach().float()
    return x.reshape(-1, 1) if x.dim() == 1 else x


def _clouds(points: torch.Tensor, batch: Any, name: str) -> torch.Tensor:
    clouds = torch.as_tensor(batch, dtype=torch.long)
    if clouds.numel() == 0:
        return torch.zeros(len(points), dtype=torch.long)
    if bool((clouds[1:] < clouds[:-1]).any()):
        raise ValueError(f"'batch_{name}' is not sorted")
    if clouds.dim() != 1 or len(clouds) != len(points):
        raise ValueError(f"{name}.size(0) == batch_{name}.size(0)")
    return clouds
