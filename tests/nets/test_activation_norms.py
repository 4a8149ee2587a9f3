"""Norms that are their own activation, filter response and EvoNorm-S0: formulas and timm's layers,
values and gradients."""

from typing import Any, Callable, Dict, List, Tuple

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from app.config.schema import Norm
from app.ipu_model.poptorch._graph.half import HalfArithmetic
from app.nets.norms import EvoNormS0, FilterResponseNorm, Norms
from app.nets.norms.evonorm import largest_divisor
from tests.nets.test_norms import images, randomised

KINDS = ("frn", "evonorm-s0")


def made(kind: str, channels: int, activated: bool = True, **config: Any) -> nn.Module:
    """In double precision, with parameters that are not at their start."""
    norms = Norms(Norm(kind=kind, **config), torch.relu, 1e-3)  # type: ignore[arg-type]
    module = norms.activated("bn1", channels) if activated else norms.linear("bn3", channels)
    return randomised(module.double())


def frn(x: Tensor, weight: Tensor, bias: Tensor, tau: Tensor) -> Tensor:
    """Channel by channel and sample by sample."""
    samples = []
    for sample in x:
        channels = []
        for c, pixels in enumerate(sample):
            power = (pixels**2).sum() / pixels.numel()
            y = weight[c] * pixels / (power + 1e-5) ** 0.5 + bias[c]
            channels.append(torch.where(y > tau[c], y, tau[c]))
        samples.append(torch.stack(channels))
    return torch.stack(samples)


def evonorm(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, groups: int) -> Tensor:
    """Group by group and sample by sample."""
    size, result = x.shape[1] // groups, []
    for sample in x:
        for group in range(groups):
            members = slice(group * size, (group + 1) * size)
            part, per_channel = sample[members], (slice(None), None, None)
            deviation = (((part - part.mean()) ** 2).mean() + 1e-5) ** 0.5
            gated = part / (1 + torch.exp(-v[members][per_channel] * part)) / deviation
            result.append(gated * weight[members][per_channel] + bias[members][per_channel])
    return torch.cat(result).view_as(x)


def gradients(function: Callable[..., Tensor], operands: Tuple[Tensor, ...]) -> List[Tensor]:
    """The result and the gradients of a weighted sum of it."""
    result = function(*operands)
    direction = images(*result.shape, seed=5)
    return [result, *torch.autograd.grad((result * direction).sum(), operands)]


def assert_same(ours: nn.Module, reference: Callable[..., Tensor], *shape: int) -> None:
    names = [name for name, _ in ours.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(ours, dict(zip(names, values)), (x,))
        return result

    operands = (images(*shape).requires_grad_(), *ours.parameters())
    for found, expected in zip(gradients(call, operands), gradients(reference, operands)):
        torch.testing.assert_close(found, expected)


def test_filter_response_norm_is_its_formula() -> None:
    assert_same(made("frn", 6), frn, 3, 6, 4, 5)


@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (33, 11), (64, 32), (37, 1)])
def test_evonorm_is_its_formula(channels: int, groups: int) -> None:
    module = made("evonorm-s0", channels)
    assert isinstance(module, EvoNormS0)
    assert module.groups == groups
    assert_same(module, lambda *operands: evonorm(*operands, groups=groups), 2, channels, 3, 4)


TIMM: Dict[str, Callable[[int, bool], nn.Module]] = {
    "frn": lambda channels, act: timm.layers.FilterResponseNormTlu2d(channels, apply_act=act),
    "evonorm-s0": lambda channels, act: timm.layers.EvoNorm2dS0(channels, apply_act=act),
}


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_timm_and_has_its_names(kind: str, activated: bool) -> None:
    ours, theirs = made(kind, 64, activated), TIMM[kind](64, activated).double()
    parameters = dict(ours.named_parameters())
    theirs.load_state_dict({**theirs.state_dict(), **parameters})
    x = images(2, 64, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)  # timm's root is float32


@pytest.mark.parametrize("kind", KINDS)
def test_without_activation_neither_threshold_nor_gate_is_left(kind: str) -> None:
    module = made(kind, 4, activated=False)
    assert {name for name, _ in module.named_parameters()} == {"weight", "bias"}
    x = images(2, 4, 3, 3)
    y = module(x)
    if kind == "evonorm-s0":
        weight, bias = (p.view(-1, 1, 1) for p in (module.weight, module.bias))
        torch.testing.assert_close(y, x * weight + bias)
    else:
        never = torch.full((4,), -torch.inf, dtype=torch.float64)
        torch.testing.assert_close(y, frn(x, module.weight, module.bias, never))


@pytest.mark.parametrize(
    ("number", "most", "expected"),
    [(32, 32, 32), (24, 32, 24), (40, 32, 20), (1280, 32, 32), (37, 32, 1), (7, 7, 7), (1, 32, 1)],
)
def test_largest_divisor(number: int, most: int, expected: int) -> None:
    assert largest_divisor(number, most) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_half_tensors_do_not_overflow(kind: str) -> None:
    x = images(2, 4, 6, 6).mul(300)  # its square is beyond half's range
    expected = made(kind, 4)(x)
    with HalfArithmetic(Tensor.half):
        found = made(kind, 4).half()(x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_is_the_norm_s_own_unless_configured(kind: str) -> None:
    assert made(kind, 4).epsilon == 1e-5
    assert made(kind, 4, epsilon=0.25).epsilon == 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_stays_channels_last(kind: str) -> None:
    x = images(2, 8, 6, 6).to(memory_format=torch.channels_last)
    assert made(kind, 8)(x).is_contiguous(memory_format=torch.channels_last)


def test_thresholds_begin_at_zero_and_gates_at_one() -> None:
    norms = Norms(Norm(kind="frn"), torch.relu, 1e-3)
    threshold = norms.activated("bn1", 3)
    assert isinstance(threshold, FilterResponseNorm) and threshold.tau is not None
    assert threshold.tau.tolist() == [0.0, 0.0, 0.0]
    gate = Norms(Norm(kind="evonorm-s0"), torch.relu, 1e-3).activated("bn1", 3)
    assert isinstance(gate, EvoNormS0) and gate.v is not None
    assert gate.v.tolist() == [1.0, 1.0, 1.0]
