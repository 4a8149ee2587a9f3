"""Convolutions by themselves on this machine: the CPU in single precision, and a CUDA device in
half where there is one, each in the memory layout that is faster."""

import json
import statistics
import time
from functools import partial
from typing import Any, Callable, Dict, List, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.suite.group_convolutions.shapes import Shape
from benchmarks.suite.host_jobs import measured
from benchmarks.suite.jobs import Job, Result

__all__ = ["convolution_times", "measurement_job", "times_here"]

_ROUNDS = 5
_SECONDS = 0.06
"""Of each shape, pass and layout: at least so many rounds, and more while this lasts."""
_KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""glibc takes freed memory again, as torch does on a CUDA device. Left to itself it gives some
megabytes back to the system after every call in one process and not in another, and new pages take
up to five times as long as a small convolution."""
_LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
Step = Callable[[], object]


def measurement_job(shapes: Sequence[Shape]) -> Job:
    """Shapes on this machine's devices."""
    return Job.of(convolution_times, alone=True, shapes=[shape.arguments for shape in shapes])


def convolution_times(shapes: List[Dict[str, int]]) -> Result:
    """By device: seconds of each shape's forward pass, and of a training step (forward, both
    gradients, update of the weights), as median and quartiles in the faster layout; and what the
    device can do at best.

    That is the best square matrix product, in operations per second, and the best copy, in bytes
    read and written per second. It is measured beside the shapes, since machines have slow hours.
    All is done in a process of its own, which keeps the memory that it has had.
    """
    call = (
        f"import json; from {__name__} import times_here; print(json.dumps(times_here({shapes})))"
    )
    _, printed = measured(["-c", call], _KEEPS_MEMORY)
    found: Result = json.loads(printed)
    return found


def times_here(shapes: List[Dict[str, int]]) -> Result:
    """`convolution_times`, in this process."""
    return {
        device.type: {
            "best": _best_rates(device),
            "shapes": [_shape_times(Shape(**each), device) for each in shapes],
        }
        for device in _devices()
    }


def _devices() -> List[torch.device]:
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [torch.device(name) for name in names]


def _element(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _best_rates(device: torch.device) -> Dict[str, Any]:
    flops = []
    for size in (1024, 1536):
        a, b = (_random(device, size, size) for _ in range(2))
        times = _times({"": partial(torch.matmul, a, b)}, device, rounds=_ROUNDS)
        flops.append(2 * size**3 / min(times[""]))
    values = _random(device, 1 << 25)  # 128 MB, more than caches hold
    copy = torch.empty_like(values)
    seconds = min(_times({"": lambda: copy.copy_(values)}, device, rounds=_ROUNDS)[""])
    return {
        "flops_per_s": max(flops),
        "bytes_per_s": 2 * values.numel() * values.element_size() / seconds,
        "element_bytes": values.element_size(),
        "threads": torch.get_num_threads(),
    }


def _shape_times(shape: Shape, device: torch.device) -> Dict[str, Any]:
    forward, training = {}, {}
    for layout, memory_format in _LAYOUTS.items():
        forward[layout], training[layout] = _steps(shape, device, memory_format)
    return {"forward": _best(forward, device), "training": _best(training, device)}


def _steps(shape: Shape, device: torch.device, memory_format: torch.memory_format) -> List[Step]:
    side, pad = (shape.kernel,) * 2, (shape.kernel // 2,) * 2
    sizes = (shape.batch, shape.channels)
    images = _random(device, *sizes, shape.field, shape.field).to(memory_format=memory_format)
    change = _random(device, *sizes, shape.output, shape.output).to(memory_format=memory_format)
    weights = _random(device, shape.channels, shape.group_size, *side)
    weights = weights.to(memory_format=memory_format)
    stride, groups = (shape.stride,) * 2, shape.groups

    def forward() -> Tensor:
        return F.conv2d(images, weights, None, stride, pad, (1, 1), groups)

    def training() -> None:
        forward()
        _, gradient, _ = torch.ops.aten.convolution_backward(
            change, images, weights, None, stride, pad, (1, 1), False, (0, 0), groups,
            (True, True, False),
        )  # fmt: skip
        weights.add_(gradient, alpha=-1e-6)

    return [forward, training]


def _random(device: torch.device, *sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*sizes, generator=generator).to(device, _element(device))


def _best(steps: Dict[str, Step], device: torch.device) -> Dict[str, Any]:
    times = _times(steps, device, _ROUNDS)
    layout = min(times, key=lambda each: statistics.median(times[each]))
    low, middle, high = statistics.quantiles(times[layout], n=4, method="inclusive")
    return {
        "layout": layout,
        "low_s": low,
        "median_s": middle,
        "high_s": high,
        "rounds": len(times[layout]),
    }


def _times(steps: Dict[str, Step], device: torch.device, rounds: int) -> Dict[str, List[float]]:
    """Seconds of every call. The steps take turns: a machine that slows down slows all."""
    for step in steps.values():  # allocation, the choice of kernels
        _timed(step, device)
    found: Dict[str, List[float]] = {name: [] for name in steps}
    enough = time.perf_counter() + _SECONDS * len(steps)
    while len(next(iter(found.values()))) < rounds or time.perf_counter() < enough:
        for name, step in steps.items():
            found[name].append(_timed(step, device))
    return found


def _timed(step: Step, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    with torch.no_grad():
        step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
