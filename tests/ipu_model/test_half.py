"""Half precision: computed in float32 and rounded after every operation, on any torch version."""

from typing import Any, Callable, List

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.half import HalfArithmetic


def rounded(x: Tensor) -> Tensor:
    """A float32 tensor whose values half can represent."""
    return x.half().float()


def arithmetic() -> HalfArithmetic:
    return HalfArithmetic(lambda x: x.half())


def half(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).half()


# ---- single operations


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a * b - a / (b.abs() + 1),
        lambda a, b: a @ b.t(),
        lambda a, b: torch.einsum("ij,kj->ik", a, b),
        lambda a, b: F.linear(a, b),
        lambda a, b: F.softmax(a, dim=1),
        lambda a, b: F.log_softmax(a, dim=1).exp(),
        lambda a, b: F.gelu(a) + F.silu(b) + F.relu(a),
        lambda a, b: F.layer_norm(a, (6,)),
        lambda a, b: a.sum(dim=0) + a.mean(dim=0),
        lambda a, b: a.max(dim=1).values + a.amin(dim=1),
        lambda a, b: torch.where(a > b, a, b).cumsum(dim=0),
        lambda a, b: a.clone().add_(b).mul_(2),
        lambda a, b: torch.cat([a, b]).t().reshape(-1)[::2],
        lambda a, b: F.embedding(torch.tensor([1, 0, 1]), a),
        lambda a, b: torch.bmm(a[None], b.t()[None])[0],
        lambda a, b: F.conv1d(a[None], b[:3, :4, None].contiguous()[:, :4]),
        lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None])[0],
    ],
)
def test_results_are_those_of_float32_rounded(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = half(4, 6), half(4, 6, seed=1)
    with arithmetic():
        result = function(a, b)
    assert result.dtype == torch.float16
    expected = function(a.float(), b.float())
    torch.testing.assert_close(result.float(), expected, rtol=4e-3, atol=4e-3)


def test_operations_in_place_that_change_the_shape_keep_sharing_memory() -> None:
    x = half(3, 4)
    base = x.view(3, 4)
    with arithmetic():
        x.t_().unsqueeze_(0).transpose_(0, 1)
        x.zero_()
    assert x.shape == (4, 1, 3)
    assert base.equal(torch.zeros(3, 4).half())


def test_indexing_rounds_unseen_by_the_compiler() -> None:
    class Picks(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[index]

    x, index = half(4, 3), torch.tensor([2, 0, 1, 3])
    assert poptorch.inferenceModel(Picks())(x, index).equal(x[index])


@given(
    values=st.lists(st.floats(-1000, 1000, width=16), min_size=2, max_size=9),
    scalar=st.floats(-8, 8, width=16),
)
@settings(deadline=None, max_examples=60)
def test_each_operation_rounds_once(values: List[float], scalar: float) -> None:
    x = torch.tensor(values).half()
    with arithmetic():
        result = x * scalar + 1
    step = rounded(x.float() * scalar)
    assert torch.equal(result, (step + 1).half())


def test_in_place_operations_write_their_operand_and_views_share_memory() -> None:
    x = half(3, 4)
    with arithmetic():
        row = x[1]
        returned = row.mul_(2.0)
        x[:, 0].fill_(7.0)
    assert returned is row
    assert x[1, 0] == 7
    assert torch.equal(row[1:], (half(3, 4)[1, 1:].float() * 2).half())


def test_promotion_is_torchs() -> None:
    a, f = half(2, 3), torch.randn(2, 3)
    with arithmetic():
        assert (a + f).dtype == torch.float32
        assert (a * torch.tensor(2.0)).dtype == torch.float16
        assert (a * 2.0).dtype == torch.float16
        assert (a > f).dtype == torch.bool
        assert a.sum(dtype=torch.float32).dtype == torch.float32
        assert a.argmax().dtype == torch.int64
        assert F.softmax(a, 1, dtype=torch.float32).dtype == torch.float32


def test_large_sums_keep_their_digits_inside_an_operation() -> None:
    ones = torch.ones(4096, dtype=torch.float16)
    with arithmetic():
        assert ones.sum() == 4096
        assert (ones @ ones) == 4096


def test_nothing_changes_where_nothing_is_half() -> None:
    mode = arithmetic()
    with mode:
        x = torch.ones(3) * 1.0000001
    assert x.dtype == torch.float32
    assert not mode.was_used


# ---- through executors


class Classifier(nn.Module):
    """Convolution, batch norm and a linear layer; the loss is taken in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        h = F.relu(self.norm(self.conv(x))).mean((2, 3))
        logits = self.fc(h)
        return logits, F.cross_entropy(logits.float(), y)


X, Y = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(4)


def train(model: nn.Module, x: Tensor, scaling: float = 1.0, steps: int = 3) -> List[float]:
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, loss_scaling=scaling)
    executor = poptorch.trainingModel(model, None, optimizer)
    losses = [float(executor(x, Y)[1]) for _ in range(steps)]
    executor.copyWeightsToHost()
    return losses


def plain(steps: int = 3) -> List[float]:
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = model(X, Y)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scaling", [1.0, 128.0])
def test_half_models_train_like_float_ones(scaling: float) -> None:
    model = Classifier().half()
    losses = train(model, X.half(), scaling)
    assert losses == pytest.approx(plain(), rel=0.02)
    assert losses != plain()
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.norm.running_mean.dtype == torch.float16
    assert model.norm.running_mean.abs().max() > 0


def test_half_inputs_with_float_parameters_keep_the_parameters_float() -> None:
    model = Classifier()
    losses = train(model, X.half(), 64.0)
    assert losses == pytest.approx(plain(), rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 2, 1), (1, 2, 3, 3)),
        (nn.ConvTranspose2d(2, 2, 2), (1, 2, 3, 3)),
        (nn.BatchNorm2d(2), (2, 2, 3, 3)),
        (nn.GroupNorm(1, 2), (1, 2, 3, 3)),
        (nn.LayerNorm(3), (2, 3)),
        (nn.InstanceNorm2d(2, affine=True), (1, 2, 3, 3)),
        (nn.Linear(3, 2), (2, 3)),
    ],
)
@pytest.mark.parametrize("input_is_half", [True, False])
def test_mixed_layers_give_the_inputs_type(
    layer: nn.Module, shape: Any, input_is_half: bool
) -> None:
    layer = layer.float() if input_is_half else layer.half()
    x = torch.randn(shape)
    executor = poptorch.inferenceModel(layer, poptorch.Options())
    result = executor(x.half() if input_is_half else x)
    assert result.dtype == (torch.float16 if input_is_half else torch.float32)
    executor.destroy()
    expected = layer.float()(x)
    torch.testing.assert_close(result.float(), expected.detach(), rtol=1e-2, atol=1e-2)


def test_linear_promotes_the_product_and_types_the_result_like_the_input() -> None:
    layer = nn.Linear(64, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0 + 2**-12)  # half would round it to 1
    result = poptorch.inferenceModel(layer)(torch.ones(1, 64, dtype=torch.float16))
    assert result == torch.tensor(64 * (1 + 2**-12)).half()


def test_convolution_casts_the_weight_down() -> None:
    layer = nn.Conv2d(64, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0 + 2**-12)
    x = torch.full((1, 64, 1, 1), 1.0, dtype=torch.float16)
    assert poptorch.inferenceModel(layer)(x) == 64


def test_casts_inside_forward_use_half_where_torch_lacks_kernels() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(self.fc(x.half()), dim=1)

    assert poptorch.inferenceModel(Casting())(torch.randn(2, 3)).dtype == torch.float16


def test_half_outputs_are_summed_in_half() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1

    options = poptorch.Options().deviceIterations(3).outputMode(poptorch.OutputMode.Sum)
    batch = torch.tensor([[2048.0], [1.0], [1.0]]).half()
    assert poptorch.inferenceModel(Large(), options)(batch) == 2048


class Drifting(nn.Module):
    """Its half weight moves by less than half a spacing in each update."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2000, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        return poptorch.identity_loss(self.weight.float() * x, "sum")


def drifted(stochastic: bool, seed: int = 1) -> Tensor:
    options = poptorch.Options().randomSeed(seed)
    options.Precision.enableStochasticRounding(stochastic)
    model = Drifting()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0**-13)
    executor = poptorch.trainingModel(model, options, optimizer)
    for _ in range(8):
        executor(-torch.ones(1))
    return model.weight.detach().float()


def test_stochastic_rounding_follows_small_updates_on_average() -> None:
    assert torch.equal(drifted(stochastic=False), torch.ones(2000))
    moved = drifted(stochastic=True)
    # eight updates of an eighth of the spacing 2^-10
    assert moved.mean() == pytest.approx(1 + 2**-10, abs=2**-10 / 10)
    assert torch.equal(moved, drifted(stochastic=True))
    assert not torch.equal(moved, drifted(stochastic=True, seed=2))


@pytest.mark.parametrize("checked", [True, False])
def test_overflow_is_an_error_if_asked_for_and_clipped_otherwise(checked: bool) -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    options = poptorch.Options()
    options.Precision.enableFloatingPointExceptions(checked)
    executor = poptorch.inferenceModel(Square(), options)
    assert executor(torch.tensor([200.0]).half()) == 40000
    if not checked:
        assert executor(torch.tensor([300.0]).half()) == 65504
        return
    with pytest.raises(poptorch.Error, match="Floating point exception") as error:
        executor(torch.tensor([300.0]).half())
    assert error.value.type == "poplar_application_runtime_error"
