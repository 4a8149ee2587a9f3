"""Online normalization against an implementation that takes one sample and one number at a time."""

import copy
from typing import Dict, List, Tuple

import pytest
import torch
from torch import Tensor

from app.config.schema import Norm
from app.ipu_model.poptorch._graph.half import HalfArithmetic
from app.nets.norms import Norms, OnlineNorm
from app.nets.norms.online import STREAMS
from tests.nets.test_norms import images, randomised

Streams = Dict[str, List[float]]


def made(channels: int = 3, forward: float = 0.9, backward: float = 0.8) -> OnlineNorm:
    config = Norm("online", online_forward_decay=forward, online_backward_decay=backward)
    module = Norms(config, torch.nn.functional.silu, 1e-3).linear("bn3", channels)
    assert isinstance(module, OnlineNorm)
    return module.double()


class Reference:
    """Algorithms 1 and 2 of arXiv 1905.05894 in plain Python, and the gradient they give to x."""

    def __init__(self, channels: int, forward: float, backward: float) -> None:
        self.forward_decay, self.backward_decay = forward, backward
        self.streams: Streams = {name: [0.0] * channels for name in STREAMS}
        self.streams["running_var"] = [1.0] * channels

    def run(self, x: List[List[List[float]]]) -> List[List[List[float]]]:
        """x[sample][channel][pixel] -> y; remembers what the way back needs."""
        a, results = self.forward_decay, []
        self.seen: List[List[Tuple[List[float], float]]] = []
        mean, variance = self.streams["running_mean"], self.streams["running_var"]
        for sample in x:
            rows, seen = [], []
            for c, pixels in enumerate(sample):
                deviation = (variance[c] + 1e-5) ** 0.5
                y = [(pixel - mean[c]) / deviation for pixel in pixels]
                own = sum(pixels) / len(pixels)
                own_variance = sum((pixel - own) ** 2 for pixel in pixels) / len(pixels)
                variance[c] = (
                    a * variance[c] + (1 - a) * own_variance + a * (1 - a) * (own - mean[c]) ** 2
                )
                mean[c] = a * mean[c] + (1 - a) * own
                rows.append(y)
                seen.append((y, deviation))
            results.append(rows)
            self.seen.append(seen)
        return results

    def back(self, gradients: List[List[List[float]]]) -> List[List[List[float]]]:
        c_decay, results = self.backward_decay, []
        v, u = self.streams["running_projection"], self.streams["running_gradient"]
        for sample, seen in zip(gradients, self.seen):
            rows = []
            for c, (gradient, (y, deviation)) in enumerate(zip(sample, seen)):
                h = [g - (1 - c_decay) * v[c] * o for g, o in zip(gradient, y)]
                v[c] += sum(each * o for each, o in zip(h, y)) / len(y)
                result = [each / deviation - (1 - c_decay) * u[c] for each in h]
                u[c] += sum(result) / len(result)
                rows.append(result)
            results.append(rows)
        return results


def assert_streams(module: OnlineNorm, streams: Streams) -> None:
    for name in STREAMS:
        expected = torch.tensor(streams[name], dtype=torch.float64)
        torch.testing.assert_close(getattr(module, name), expected)


@pytest.mark.parametrize(("forward", "backward"), [(0.9, 0.8), (0.5, 0.0), (0.999, 0.99)])
@pytest.mark.parametrize("batch", [1, 5])
def test_several_steps_are_those_of_single_samples(
    forward: float, backward: float, batch: int
) -> None:
    module, reference = made(3, forward, backward), Reference(3, forward, backward)
    for step in range(4):
        x = images(batch, 3, 2, 4, seed=step).mul(0.3).requires_grad_()  # nothing is cut off
        direction = images(batch, 3, 2, 4, seed=100 + step)
        y = module(x)
        expected = reference.run(x.flatten(2).tolist())
        torch.testing.assert_close(y.flatten(2), torch.tensor(expected).double())
        assert y.abs().max() < 5
        (gradient,) = torch.autograd.grad((y * direction).sum(), x)
        expected = reference.back(direction.flatten(2).tolist())
        torch.testing.assert_close(gradient.flatten(2), torch.tensor(expected).double())
        assert_streams(module, reference.streams)


def test_affine_comes_before_the_cut_off_and_that_before_the_activation() -> None:
    config = Norm("online")
    module = Norms(config, torch.tanh, 1e-3).activated("bn1", 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 3.0]))
        module.bias.copy_(torch.tensor([0.5, -1.0]))
    x = torch.linspace(-9, 9, 24, dtype=torch.float64).view(2, 2, 2, 3)
    whitened = Reference(2, 0.999, 0.99).run(x.flatten(2).tolist())
    affine = torch.tensor(whitened).double() * torch.tensor([[1.0], [3.0]]) + torch.tensor(
        [[0.5], [-1.0]]
    )
    assert affine.abs().max() > 5
    torch.testing.assert_close(module(x).flatten(2), torch.tanh(affine.clamp(-5, 5)))


def test_affine_gets_the_plain_gradient() -> None:
    module = randomised(made())
    x, direction = images(4, 3, 2, 2).mul(0.1), images(4, 3, 2, 2, seed=1)
    whitened = torch.tensor(Reference(3, 0.9, 0.8).run(x.flatten(2).tolist())).double()
    found = torch.autograd.grad((module(x) * direction).sum(), (module.weight, module.bias))
    torch.testing.assert_close(found[0], (whitened * direction.flatten(2)).sum((0, 2)))
    torch.testing.assert_close(found[1], direction.sum((0, 2, 3)))


def test_evaluation_takes_the_streams_as_they_are() -> None:
    module = randomised(made()).eval()
    with torch.no_grad():
        module.running_mean.copy_(torch.tensor([1.0, -2.0, 0.0]))
        module.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    before = copy.deepcopy(module.state_dict())
    x = images(2, 3, 4, 4)
    y = module(x)
    y.sum().backward()
    reference = torch.nn.functional.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias, eps=1e-5
    )
    torch.testing.assert_close(y, reference.clamp(-5, 5))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_streams_settle_at_the_moments_of_the_input_and_the_gradient() -> None:
    module = made(2, forward=0.99, backward=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        x = torch.randn(32, 2, 4, 4, generator=generator).double() * 3 + 2
        x.requires_grad_()
        y = module(x)
        gradient = (0.5 * y.detach() + 0.2) * 0.1  # has what a norm's gradient must not have
        y.backward(gradient)
    assert module.running_mean.tolist() == pytest.approx([2, 2], abs=0.2)
    assert module.running_var.tolist() == pytest.approx([9, 9], abs=1.0)
    assert x.grad is not None
    assert x.grad.mean().abs() < 0.1 * gradient.mean().abs() / 3
    assert (x.grad * y.detach()).mean().abs() < 0.1 * (gradient * y.detach()).mean().abs() / 3


def test_streams_are_state_and_stay_float32_in_half() -> None:
    module = Norms(Norm("online"), torch.relu, 1e-3).activated("bn1", 4)
    assert set(STREAMS) < set(module.state_dict())
    module.running_var.fill_(1.0001)  # which half does not have
    before = module.running_var.clone()
    half = copy.deepcopy(module).half()
    assert {getattr(half, name).dtype for name in STREAMS} == {torch.float32}
    assert torch.equal(half.running_var, before)
    assert half.weight.dtype == torch.float16
    x = images(2, 4, 6, 6).mul(300)
    for training in (True, False):
        with HalfArithmetic(Tensor.half):
            found = half.train(training)(x.half())
        expected = module.train(training)(x.float())
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), expected, rtol=5e-3, atol=5e-3)


def test_half_gradients_are_those_of_float32_rounded() -> None:
    module = made().float()
    half = copy.deepcopy(module)
    x, direction = images(3, 3, 4, 4).float(), images(3, 3, 4, 4, seed=1).float()
    wide, narrow = x.clone().requires_grad_(), x.half().requires_grad_()
    module(wide).backward(direction)
    with HalfArithmetic(Tensor.half):
        half.half()(narrow).backward(direction.half())
    assert wide.grad is not None and narrow.grad is not None
    torch.testing.assert_close(narrow.grad.float(), wide.grad, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        half.running_projection, module.running_projection, rtol=0.01, atol=0.01
    )


def test_tensors_without_data_have_the_shapes_of_those_with() -> None:
    module = made().float()
    y = copy.deepcopy(module).to("meta")(torch.empty(2, 3, 4, 5, device="meta"))
    assert (y.shape, y.dtype) == ((2, 3, 4, 5), torch.float32)
    found = torch.ops.ipu_app.online_norm(
        torch.empty(2, 3, 4, 5, device="meta"),
        *(torch.empty(3, device="meta") for _ in STREAMS),
        0.9,
        0.8,
        1e-5,
    )
    real = torch.ops.ipu_app.online_norm(
        torch.ones(2, 3, 4, 5), *(torch.ones(3) for _ in STREAMS), 0.9, 0.8, 1e-5
    )
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in real]


def test_channels_last_stays_channels_last() -> None:
    x = images(2, 3, 6, 6).to(memory_format=torch.channels_last)
    assert made()(x).is_contiguous(memory_format=torch.channels_last)


def test_defaults_are_the_published_ones() -> None:
    module = Norms(Norm("online"), torch.relu, 1e-3).activated("bn1", 2)
    assert isinstance(module, OnlineNorm)
    assert (module.decays, module.epsilon) == ((0.999, 0.99), 1e-5)
    start: List[Tensor] = [getattr(module, name) for name in STREAMS]
    assert [stream.tolist() for stream in start] == [[0, 0], [1, 1], [0, 0], [0, 0]]
