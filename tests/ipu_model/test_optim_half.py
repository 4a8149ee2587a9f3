"""Half weights, half state and half gradients: what is stored in half is rounded there."""

from typing import Any, Dict, List, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._optimizers.gradients import ONE_PROCESS, Processes
from app.ipu_model.poptorch._optimizers.rounding import NEAREST, HalfRounding
from app.ipu_model.poptorch._optimizers.settings import settings_of
from app.ipu_model.poptorch._optimizers.updates import DeviceOptimizer
from tests.ipu_model.optim_reference import MEAN_POST, SUM, Batching

HALF, FULL = torch.float16, torch.float32
ONE = Batching(1, 1, 1)


def weights(values: Tensor, dtype: torch.dtype = HALF) -> nn.Parameter:
    return nn.Parameter(values.detach().to(dtype, copy=True))


def on_device(
    optimizer: torch.optim.Optimizer,
    batching: Batching = ONE,
    rounding: HalfRounding = NEAREST,
    reduction: Any = MEAN_POST,
) -> DeviceOptimizer:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    group_of = [i for i, group in enumerate(optimizer.param_groups) for _ in group["params"]]
    return DeviceOptimizer(
        settings_of(optimizer),
        [(f"w{i}", p) for i, p in enumerate(parameters)],
        group_of,
        batching.options(reduction),
        rounding,
    )


def update(device: DeviceOptimizer, gradients: List[List[Tensor]], replicas: int = 1) -> None:
    """One update from the gradients of its micro-batches, the replica being the fastest index."""
    reduction = device.reduction()
    for m, of_micro_batch in enumerate(gradients):
        for parameter, gradient in zip(device.parameters, of_micro_batch):
            gradient = gradient.to(parameter.dtype, copy=True)
            # as autograd does
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        reduction.take(m % replicas, m // replicas)
    device.step(reduction.reduce(), reduction.factor(device.settings.device_loss_scaling))


def h(x: Tensor) -> Tensor:
    """What half memory keeps of x."""
    return x.half().float()


W0 = torch.linspace(-1.0, 1.0, 9)
G = torch.linspace(0.3, -0.2, 9)


def run(optimizer: torch.optim.Optimizer, steps: int = 3, **more: Any) -> DeviceOptimizer:
    device = on_device(optimizer, **more)
    for _ in range(steps):
        update(device, [[G]] * more.get("batching", ONE).accumulation)
    return device


def test_sgd_rounds_half_weights_after_decay_and_after_the_step() -> None:
    p = weights(W0)
    run(poptorch.optim.SGD([p], lr=0.1, weight_decay=0.2))
    w = h(W0)
    for _ in range(3):
        w = h(w * (1 - 0.1 * 0.2))
        w = h(w - 0.1 * h(G))
    assert p.dtype == HALF
    torch.testing.assert_close(p.float(), w, rtol=2**-11, atol=2**-24)


def test_momentum_of_half_weights_is_kept_in_the_type_asked_for() -> None:
    for dtype in (HALF, FULL):
        p = weights(W0)
        device = run(poptorch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.2,
                                        loss_scaling=4.0, velocity_accum_type=dtype))  # fmt: skip
        stored = h if dtype == HALF else torch.Tensor.float
        w, v = h(W0), torch.zeros(9)
        for _ in range(3):
            v = stored(0.9 * v + 0.2 * 4.0 * w)
            v = stored(v + h(G))  # vs·c = 4/4
            w = h(w - 0.1 / 4.0 * v)
        found = device.named_state()["Accl1___w0"]
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), v, rtol=2**-10, atol=1e-5)
        torch.testing.assert_close(p.float(), w, rtol=2**-9, atol=2**-13)


@pytest.mark.parametrize("first", [HALF, FULL])
@pytest.mark.parametrize("second", [HALF, FULL])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "LAMB"])
def test_moments_are_rounded_in_their_own_types(kind: str, first: Any, second: Any) -> None:
    p = weights(W0)
    optimizer = getattr(poptorch.optim, kind)(
        [p], lr=0.05, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1,
        first_order_momentum_accum_type=first, second_order_momentum_accum_type=second,
    )  # fmt: skip
    device = run(optimizer)
    store_m, store_v = (h if dtype == HALF else torch.Tensor.float for dtype in (first, second))
    w, m, v = h(W0), torch.zeros(9), torch.zeros(9)
    for t in range(1, 4):
        s = h(h(G) + 0.1 * w) if kind == "Adam" else h(G)
        m = store_m(0.8 * m + 0.2 * s)
        v = store_v(0.9 * v + 0.1 * s**2)
        x = m / (1 - 0.8**t) / (torch.sqrt(v / (1 - 0.9**t)) + 1e-3)
        x = h(x if kind == "Adam" else x + 0.1 * w)
        q = float(w.norm() / x.norm()) if kind == "LAMB" else 1.0
        w = h(w - 0.05 * q * x)
    state = device.named_state()
    assert state["Accl1___w0"].dtype == first
    assert state["Accl2___w0"].dtype == second
    assert state["Step___w0"].dtype == FULL
    torch.testing.assert_close(state["Accl1___w0"].float(), m, rtol=2**-9, atol=2**-14)
    torch.testing.assert_close(state["Accl2___w0"].float(), v, rtol=2**-9, atol=2**-20)
    torch.testing.assert_close(p.float(), w, rtol=2**-9, atol=2**-11)


@pytest.mark.parametrize("first", [HALF, FULL])
@pytest.mark.parametrize("second", [HALF, FULL])
def test_rmsprop_keeps_both_averages_in_the_first_type_and_the_momentum_in_float32(
    first: Any, second: Any
) -> None:
    p = weights(W0, FULL)
    device = run(poptorch.optim.RMSprop(
        [p], lr=0.05, momentum=0.5, centered=True, first_order_momentum_accum_type=first,
        second_order_momentum_accum_type=second,
    ))  # fmt: skip
    types = {name: tensor.dtype for name, tensor in device.named_state().items()}
    assert types == {"Accl1___w0": first, "Accl2___w0": first, "Accl3___w0": FULL}


@pytest.mark.parametrize("state_type", [HALF, FULL])
def test_half_gradient_is_widened_before_unscaling_if_all_state_is_float32(state_type: Any) -> None:
    """2^-26 is no half: unscaled in half, the gradient vanishes."""
    p = weights(torch.zeros(1), FULL)
    optimizer = poptorch.optim.Adam(
        [p], lr=0.5, loss_scaling=2.0**15, accum_type=HALF, eps=1e-12,
        first_order_momentum_accum_type=state_type, betas=(0.0, 0.0),
    )  # fmt: skip
    device = on_device(optimizer, Batching(1, 2, 1))
    update(device, [[torch.full((1,), 2.0**-11)]] * 2)
    # the sum of two, over A = 2, over 2^15
    expected = 0.0 if state_type == HALF else 2.0**-26
    assert float(device.named_state()["Accl1___w0"]) == expected


def test_combined_velocity_of_half_weights_is_rounded_after_every_micro_batch() -> None:
    p, batching = weights(W0), Batching(1, 3, 2)
    device = on_device(
        poptorch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.2, loss_scaling=8.0,
                           use_combined_accum=True, velocity_scaling=2.0),
        batching,
    )  # fmt: skip
    gradients = [G * (i + 1) for i in range(6)]
    w, v = h(W0), h(h(W0) * 0.2 * 2.0)
    torch.testing.assert_close(device.named_state()["Accl___w0"].float(), v, rtol=0, atol=0)
    for _ in range(2):
        update(device, [[g] for g in gradients], replicas=2)
        velocities = [v, v]
        for step in range(3):
            for replica in range(2):
                k = 2.0 / (8.0 * 3)
                g = h(gradients[2 * step + replica])
                velocities[replica] = h(velocities[replica] + k * g)
        total = h(velocities[0] + velocities[1])
        w = h(w - 0.1 / (2.0 * 2) * total)
        v = h(h(0.9 / 2 * total + 0.2 * 2.0 * w))
    state = device.named_state()["Accl___w0"]
    assert state.dtype == HALF
    torch.testing.assert_close(state.float(), v, rtol=2**-9, atol=2**-13)
    torch.testing.assert_close(p.float(), w, rtol=2**-10, atol=2**-13)


@pytest.mark.parametrize("dtype", [HALF, FULL])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_combined_sgd_of_two_processes_equals_one_of_twice_the_replicas(
    accumulation: int, dtype: Any
) -> None:
    def made(replicas: int, processes: Processes) -> DeviceOptimizer:
        optimizer = poptorch.optim.SGD(
            [weights(W0, dtype)], lr=0.1, momentum=0.9, weight_decay=0.2, use_combined_accum=True
        )
        device = on_device(optimizer, Batching(1, accumulation, replicas))
        options = Batching(1, accumulation, replicas).options()
        return DeviceOptimizer(
            device.settings, [("w0", device.parameters[0])], [0], options, processes=processes
        )

    sent: List[List[Tensor]] = []

    def send(tensors: List[Tensor]) -> None:
        sent.append([tensor.clone() for tensor in tensors])

    def add(tensors: List[Tensor]) -> None:
        for tensor, other in zip(tensors, sent.pop(0)):
            tensor.add_(other)

    together = made(2, ONE_PROCESS)
    sender, adder = made(1, Processes(2, send)), made(1, Processes(2, add))
    gradients = [G * (i + 1) for i in range(2 * accumulation)]
    update(together, [[g] for g in gradients], replicas=2)
    update(sender, [[g] for g in gradients[0::2]])
    update(adder, [[g] for g in gradients[1::2]])
    torch.testing.assert_close(adder.parameters[0], together.parameters[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        adder.named_state()["Accl___w0"], together.named_state()["Accl___w0"], rtol=0, atol=1e-6
    )


def test_half_weights_have_no_master_copy() -> None:
    """Steps below half the spacing are lost for good; with random rounding they are not."""
    step, steps = 2.0**-13, 64
    for rounding in (HalfRounding(), HalfRounding(stochastic=True)):
        p = weights(torch.ones(2000))
        device = on_device(poptorch.optim.SGD([p], lr=1.0), rounding=rounding)
        rounding.seed(3)
        for _ in range(steps):
            update(device, [[torch.full((2000,), -step)]])
        moved = float((p.detach().double() - 1).mean())
        if rounding.is_stochastic:
            assert abs(moved - steps * step) < 0.03 * steps * step
        else:
            assert moved == 0.0


def test_stochastic_updates_repeat_with_the_seed() -> None:
    results = []
    for seed in (1, 1, 2):
        rounding = HalfRounding(stochastic=True)
        rounding.seed(seed)
        p = weights(torch.linspace(-1, 1, 500))
        device = on_device(
            poptorch.optim.Adam([p], lr=0.01, first_order_momentum_accum_type=HALF),
            rounding=rounding,
        )
        for _ in range(3):
            update(device, [[torch.linspace(0.1, 0.7, 500)]])
        results.append((p.detach().clone(), device.named_state()["Accl1___w0"]))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
    assert not torch.equal(results[0][0], results[2][0])


def test_half_and_float_weights_of_one_group_each_follow_their_type() -> None:
    half, full = weights(W0), weights(W0, FULL)
    device = on_device(poptorch.optim.SGD([half, full], lr=0.1, momentum=0.9))
    alone = weights(W0, FULL)
    other = on_device(poptorch.optim.SGD([alone], lr=0.1, momentum=0.9))
    for _ in range(3):
        update(device, [[G, G]])
        update(other, [[G]])
    assert torch.equal(full, alone)
    assert half.dtype == HALF
    torch.testing.assert_close(half.float(), full.float(), rtol=2**-9, atol=2**-10)


OPTIMIZERS: Dict[str, Dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "velocity_accum_type": HALF},
    "Adam": {"lr": 0.01, "eps": 1e-3},
    "AdamW": {"lr": 0.01, "eps": 1e-3, "max_grad_norm": 1.0},
    "LAMB": {"lr": 0.01, "eps": 1e-3},
    "RMSprop": {"lr": 0.01, "eps": 1e-3, "momentum": 0.5},
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(OPTIMIZERS)),
    accumulation=st.integers(1, 3),
    replicas=st.integers(1, 2),
    state_type=st.sampled_from([HALF, FULL]),
    accumulator_type=st.sampled_from([HALF, FULL]),
    reduction=st.sampled_from([MEAN_POST, SUM]),
    scale=st.sampled_from([1.0, 64.0]),
)
def test_half_training_stays_near_training_in_float32(
    kind: str, accumulation: int, replicas: int, state_type: Any, accumulator_type: Any,
    reduction: Any, scale: float,
) -> None:  # fmt: skip
    batching = Batching(1, accumulation, replicas)
    generator = torch.Generator().manual_seed(accumulation + 10 * replicas)
    calls = [
        [[torch.randn(9, generator=generator)] for _ in range(accumulation * replicas)]
        for _ in range(4)
    ]
    results: List[Tensor] = []
    for dtype in (HALF, FULL):
        p = weights(W0, dtype)
        more: Dict[str, Any] = dict(OPTIMIZERS[kind])
        if dtype == FULL:
            more.pop("velocity_accum_type", None)
        else:
            more["accum_type"] = accumulator_type
            if kind != "SGD":
                more["first_order_momentum_accum_type"] = state_type
        optimizer = getattr(poptorch.optim, kind)([p], loss_scaling=scale, **more)
        device = on_device(optimizer, batching, reduction=reduction)
        for gradients in calls:
            scaled = [[g * scale for g in row] for row in gradients]
            update(device, scaled, replicas)
        results.append(p.detach().float())
    torch.testing.assert_close(results[0], results[1], rtol=0.02, atol=0.02)


def test_loaded_state_takes_the_type_it_is_stored_in() -> None:
    p = weights(W0)
    device = run(poptorch.optim.Adam([p], first_order_momentum_accum_type=HALF))
    loaded: Dict[str, Optional[Tensor]] = {
        name: tensor.float() for name, tensor in device.named_state().items()
    }
    expected = device.named_state()
    device.reset()
    assert device.load_named_state(loaded) == []  # type: ignore[arg-type]
    for name, tensor in device.named_state().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
