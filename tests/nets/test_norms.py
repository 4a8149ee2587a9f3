"""Norms and proxy norm: values by quadrature over the proxy's quantiles, gradients, placement."""

import math
from typing import Tuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.config.schema import Norm
from app.errors import ConfigError
from app.nets.norms import Activation, GroupNorm, Norms, ProxyNormAct, proxy_basis

RATES = {"silu": F.silu, "relu": F.relu}


def proxy_norm(
    channels: int = 1, activation: Activation = F.silu, scale: str = "applied", **config: object
) -> ProxyNormAct:
    """A double-precision layer norm with proxy, in its initial state."""
    norm = Norm(kind="layer", proxy=True, **config)
    module = Norms(norm, activation, 1e-3).activated("bn1", channels, scale).double()
    assert isinstance(module, ProxyNormAct)
    return module


def parameters_of(module: ProxyNormAct) -> Tuple[nn.Parameter, ...]:
    """beta, gamma and the proxy's mean and deviation."""
    return module.bias, module.weight, module.proxy_bias, module.proxy_weight


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
    return module


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 0.5


def set_parameters(module: ProxyNormAct, values: Tuple[float, ...]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters_of(module), values):
            parameter.fill_(value)


# activation, (beta, gamma, proxy mean, proxy deviation - 1), samples -> mean, variance, 1/std
STATISTICS = [
    ("silu", (0, 1, 0, 0), 200, (0.206048, 0.310004, 1.714977)),
    ("silu", (0, 1, 0, 0), 256, (0.206184, 0.310665, 1.713312)),
    ("silu", (0.5, 1, 0, 0), 200, (0.499429, 0.504203, 1.368191)),
    ("silu", (0.5, 1, 0, 0), 256, (0.499564, 0.504905, 1.367294)),
    ("silu", (-1, 1, 0, 0), 200, (-0.125886, 0.069436, 3.171228)),
    ("silu", (-1, 1, 0, 0), 256, (-0.125754, 0.069915, 3.163623)),
    ("silu", (-2, 0.5, 0.1, -0.2), 200, (-0.237650, 0.000966, 5.682730)),
    ("silu", (-2, 0.5, 0.1, -0.2), 256, (-0.237639, 0.000967, 5.682661)),
    ("relu", (0, 1, 0, 0), 200, (0.398451, 0.338035, 1.648373)),
    ("relu", (0, 1, 0, 0), 256, (0.398565, 0.338637, 1.647026)),
    ("relu", (-1, 1, 0, 0), 200, (0.082822, 0.066266, 3.223028)),
    ("relu", (-1, 1, 0, 0), 256, (0.082935, 0.066710, 3.215612)),
    ("silu", (-0.3, 1.4, 0.2, -0.1), 256, (0.292197, 0.506099, 1.365770)),
]


@pytest.mark.parametrize(("activation", "values", "samples", "expected"), STATISTICS)
def test_proxy_statistics(
    activation: str,
    values: Tuple[float, ...],
    samples: int,
    expected: Tuple[float, float, float],
) -> None:
    module = proxy_norm(activation=RATES[activation], proxy_samples=samples)
    set_parameters(module, values)
    mean, inv_std = (s.item() for s in module.proxy_statistics())
    assert (mean, inv_std**-2 - 0.03, inv_std) == pytest.approx(expected, abs=1e-6)


def test_statistics_approach_the_gaussian_integral_with_the_samples() -> None:
    module = proxy_norm(proxy_samples=100_000)
    mean, inv_std = (s.item() for s in module.proxy_statistics())
    assert (mean, inv_std) == pytest.approx((0.206621, 1.707262), abs=2e-5)


@pytest.mark.parametrize(
    ("samples", "end", "std"), [(256, 2.885635, 0.997488), (200, 2.807034, 0.996793)]
)
def test_proxy_points_are_symmetric_quantile_mid_points(
    samples: int, end: float, std: float
) -> None:
    ones, points = proxy_basis(samples, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(ones, torch.ones(samples).double())
    assert points[-1].item() == pytest.approx(end, abs=1e-6)
    assert points.std(unbiased=False).item() == pytest.approx(std, abs=1e-6)
    torch.testing.assert_close(points, -points.flip(0))
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    expected = (torch.arange(samples).double() + 0.5) / samples
    torch.testing.assert_close(normal.cdf(points), expected)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (256, (-0.814038, -0.353257, 0.899275, 2.664904)),
        (200, (-0.814596, -0.353368, 0.900380, 2.667725)),
    ],
)
def test_output_at_initialisation(samples: int, expected: Tuple[float, ...]) -> None:
    mean, inv_std = proxy_norm(proxy_samples=samples).proxy_statistics()
    z = (F.silu(torch.tensor([-1.0, 0.0, 1.0, 2.0]).double()) - mean) * inv_std
    assert z.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "of_mean", "of_inv_std"),
    [
        (
            (0, 1, 0, 0),
            (0.5, 0.350499, 0.5, 0.350499),
            (-0.881386, -1.721489, -0.881386, -1.721489),
        ),
        (
            (-0.3, 1.4, 0.2, -0.1),
            (0.493887, 0.445115, 0.691441, 0.538747),
            (-0.612211, -1.133227, -0.857095, -1.572332),
        ),
    ],
)
def test_gradients_of_the_proxy_statistics(
    values: Tuple[float, ...], of_mean: Tuple[float, ...], of_inv_std: Tuple[float, ...]
) -> None:
    module = proxy_norm()
    set_parameters(module, values)
    mean, inv_std = module.proxy_statistics()
    for statistic, expected in ((mean, of_mean), (inv_std, of_inv_std)):
        found = torch.autograd.grad(statistic.sum(), parameters_of(module), retain_graph=True)
        assert [g.item() for g in found] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["batch", "group", "layer", "instance"])
@pytest.mark.parametrize("scale", ["applied", "dropped", "delayed"])
def test_gradients_equal_finite_differences(kind: str, scale: str) -> None:
    norm = Norm(kind=kind, groups=2, proxy=True, proxy_samples=16)
    module = randomised(Norms(norm, F.silu, 1e-3).activated("bn1", 4, scale).double())
    names, parameters = zip(*module.named_parameters())

    def outputs(x: Tensor, *values: Tensor) -> object:
        return torch.func.functional_call(module, dict(zip(names, values)), (x,))

    inputs = (images(2, 4, 3, 2).requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


@given(
    beta=st.floats(-2, 2),
    gamma=st.floats(-2, 2),
    proxy_mean=st.floats(-1, 1),
    proxy_deviation=st.floats(-0.9, 1),
)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_shifting_the_proxy_is_gamma_times_shifting_beta(
    beta: float, gamma: float, proxy_mean: float, proxy_deviation: float
) -> None:
    module = proxy_norm()
    set_parameters(module, (beta, gamma, proxy_mean, proxy_deviation))
    for statistic in module.proxy_statistics():
        of_beta, of_proxy_mean = torch.autograd.grad(
            statistic.sum(), (module.bias, module.proxy_bias), retain_graph=True
        )
        torch.testing.assert_close(of_proxy_mean, gamma * of_beta)


def test_scale_is_applied_dropped_or_handed_on() -> None:
    x, outputs = images(2, 6, 5, 4), {}
    for scale in ("applied", "dropped", "delayed"):
        outputs[scale] = randomised(proxy_norm(6, scale=scale))(x)
    reference = randomised(proxy_norm(6))
    activated = F.silu(F.group_norm(x, 1, reference.weight, reference.bias, 1e-3))
    mean, inv_std = reference.proxy_statistics()
    torch.testing.assert_close(outputs["applied"], (activated - mean) * inv_std)
    torch.testing.assert_close(outputs["dropped"], activated - mean)
    centred, handed_on = outputs["delayed"]
    torch.testing.assert_close(centred, activated - mean)
    torch.testing.assert_close(handed_on, inv_std)
    assert handed_on.shape == (6, 1, 1)


def test_gaussian_input_leaves_with_zero_mean_and_nearly_unit_variance() -> None:
    module = proxy_norm(8)
    z = module(torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(0)).double())
    variance = 0.3107 / (0.3107 + 0.03)  # of the activation over itself plus proxy_epsilon
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(
        z.var((0, 2, 3)), torch.full((8,), variance).double(), rtol=0.06, atol=0
    )


def test_quantiles_survive_casts_and_materialisation() -> None:
    module = proxy_norm(2)
    exact = proxy_basis(256, torch.zeros(1, dtype=torch.float64))
    assert module.half().proxy_basis.dtype == torch.float32
    torch.testing.assert_close(module.proxy_basis, exact.float(), rtol=0, atol=0)
    torch.testing.assert_close(module.double().proxy_basis, exact, rtol=0, atol=0)
    module.to("meta").to_empty(device="cpu")
    torch.testing.assert_close(module.proxy_basis, exact, rtol=0, atol=0)
    assert "proxy_basis" not in module.state_dict()


def test_half_parameters_give_float32_statistics() -> None:
    module = randomised(proxy_norm(4).half())
    expected = randomised(proxy_norm(4).half()).float().proxy_statistics()
    for found, exact in zip(module.proxy_statistics(), expected):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0, atol=0)


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize(("kind", "groups"), [("group", 4), ("layer", 1), ("instance", 8)])
def test_norms_without_batch_statistics_are_group_norms(
    kind: str, groups: int, proxy: bool
) -> None:
    norms = Norms(Norm(kind=kind, groups=4, proxy=proxy), F.silu, 1e-3)
    for module in (norms.activated("bn1", 8), norms.linear("bn3", 8)):
        assert isinstance(module, nn.GroupNorm)
        assert (module.num_groups, module.eps) == (groups, 1e-3)


@pytest.mark.parametrize("kind", ["batch", "group", "layer", "instance"])
def test_parameters_of_norms(kind: str) -> None:
    plain, proxied = (Norms(Norm(kind=kind, proxy=p), F.silu, 1e-3) for p in (False, True))
    affine, proxy = {"weight", "bias"}, {"proxy_weight", "proxy_bias"}

    def names(module: nn.Module) -> set:
        return {name for name, _ in module.named_parameters()}

    assert names(plain.activated("bn1", 8)) == names(plain.linear("bn3", 8)) == affine
    assert names(proxied.activated("bn1", 8)) == affine | proxy
    assert names(proxied.linear("bn3", 8)) == {"weight"}


def test_batch_norm_takes_epsilon_and_momentum_of_the_configuration() -> None:
    module = Norms(Norm(kind="batch", epsilon=0.01, momentum=0.2), F.relu, 1e-3).linear("bn3", 8)
    assert isinstance(module, nn.BatchNorm2d)
    assert (module.eps, module.momentum) == (0.01, 0.2)


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("kind", ["group", "layer", "instance"])
def test_samples_do_not_depend_on_each_other(kind: str, proxy: bool) -> None:
    norms = Norms(Norm(kind=kind, groups=2, proxy=proxy), F.silu, 1e-3)
    module = randomised(norms.activated("bn1", 8).double())
    batch = images(4, 8, 5, 5)
    singly = torch.cat([module(sample) for sample in batch.split(1)])
    torch.testing.assert_close(module(batch), singly)


@given(groups=st.integers(1, 6), members=st.integers(1, 6), seed=st.integers(0, 100))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_strided_groups_are_contiguous_groups_of_permuted_channels(
    groups: int, members: int, seed: int
) -> None:
    channels = groups * members
    strided = randomised(GroupNorm(channels, groups, epsilon=1e-3, strided=True).double(), seed)
    # channel c belongs to group c mod groups
    order = [c for group in range(groups) for c in range(channels) if c % groups == group]
    back = torch.tensor(order).argsort()
    x = images(2, channels, 3, 4, seed=seed)
    permuted = F.group_norm(
        x[:, order], groups, strided.weight[order], strided.bias[order], strided.eps
    )
    torch.testing.assert_close(strided(x), permuted[:, back])


def test_strided_grouping_reaches_the_projections_norm_under_proxy_norm() -> None:
    config = Norm(kind="group", groups=2, channel_grouping="strided", proxy=True)
    module = Norms(config, F.silu, 1e-3).linear("bn3", 6).double()
    x = images(2, 6, 4, 4)
    even, odd = x[:, 0::2], x[:, 1::2]
    y = module(x)
    torch.testing.assert_close(y[:, 0::2], F.group_norm(even, 1, eps=1e-3))
    torch.testing.assert_close(y[:, 1::2], F.group_norm(odd, 1, eps=1e-3))


@pytest.mark.parametrize("kind", ["batch", "group", "layer"])
@pytest.mark.parametrize("scale", ["applied", "dropped"])
def test_channels_last_stays_channels_last(kind: str, scale: str) -> None:
    module = Norms(Norm(kind=kind, proxy=True), F.silu, 1e-3).activated("bn1", 8, scale)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    assert module(x).is_contiguous(memory_format=torch.channels_last)


def test_groups_that_do_not_divide_the_channels_are_an_error_naming_the_module() -> None:
    norms = Norms(Norm(kind="group", groups=32), F.silu, 1e-3)
    with pytest.raises(ConfigError) as error:
        norms.activated("blocks.0.0.bn1", 48)
    assert str(error.value) == (
        "model.norm.groups: 32 groups do not divide the 48 channels of blocks.0.0.bn1; "
        "choose a divisor of 48, or the layer norm"
    )


def test_instance_norm_of_proxy_normalised_constant_is_the_centred_bias() -> None:
    norm = Norm(kind="instance", proxy=True)
    module = Norms(norm, F.silu, 1e-3).activated("bn1", 3, "dropped").double()
    set_parameters(module, (0.5, 1.0, 0.0, 0.0))
    silu_of_bias = 0.5 / (1 + math.exp(-0.5))
    expected = torch.full((1, 3, 2, 2), silu_of_bias - 0.499564).double()
    y = module(torch.full((1, 3, 2, 2), 7.0).double())
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
