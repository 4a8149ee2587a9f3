"""What cannot be compiled is refused by name, although a CPU could run it."""

from typing import Any, Callable, List

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model import poptorch

X = torch.arange(12.0).reshape(2, 6)
IMAGE = torch.ones(1, 2, 6, 6)
OUTSIDE = torch.ones(6)


class Runs(nn.Module):
    """A model whose forward is one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def compiled(function: Callable[[Tensor], Any], x: Tensor = X) -> Any:
    return poptorch.inferenceModel(Runs(function))(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x.sum()),
        lambda x: x * int(x.sum()),
        lambda x: x + torch.tensor(x.tolist()),
        lambda x: x.cpu() + 1,
        lambda x: x.to("cpu") + 1,
        lambda x: torch.from_numpy(x.numpy()) + 1,
    ],
)
def test_values_are_not_known(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(poptorch.Error, match="the value of an IPU tensor is not known") as error:
        compiled(function)
    assert error.value.type == "poptorch_cpp_error"


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: torch.nonzero(x), "nonzero"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 3], "nonzero"),
        (lambda x: torch.masked_select(x, x > 3), "masked_select"),
        (lambda x: torch.unique(x), "unique"),
        (lambda x: F.max_pool1d(x, 2, return_indices=True)[0], "max_pool1d_with_indices"),
    ],
)
def test_shapes_do_not_depend_on_values(function: Callable[[Tensor], Any], operation: str) -> None:
    message = (
        rf"Unsupported ops found in compiled model: \[aten::{operation}\]\. Not all operations"
    )
    with pytest.raises(poptorch.Error, match=message) as error:
        compiled(function)
    assert error.value.type == "poptorch_cpp_error"


def test_tensors_from_outside_are_not_on_the_device() -> None:
    with pytest.raises(
        poptorch.Error,
        match=r"Expected an IPU tensor but got tensor\(device=cpu, shape=\[6\], dtype=Float\)",
    ) as error:
        compiled(lambda x: x + OUTSIDE)
    assert error.value.type == "poptorch_cpp_error"
    assert compiled(lambda x: x + OUTSIDE.to(x.device)).equal(X + 1)
    indices = torch.tensor([1, 0])
    with pytest.raises(poptorch.Error, match=r"shape=\[2\], dtype=Long"):
        compiled(lambda x: torch.index_select(x, 0, indices))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + OUTSIDE * 2,
        lambda x: x + OUTSIDE.double().float(),
        lambda x: x[OUTSIDE[:2].long()],
        lambda x: x + torch.ones_like(OUTSIDE),
        lambda x: OUTSIDE.clone().copy_(x[0]),
    ],
)
def test_what_the_host_makes_of_its_tensors_stays_there(
    function: Callable[[Tensor], Any],
) -> None:
    with pytest.raises(poptorch.Error, match="Expected an IPU tensor"):
        compiled(function)


def test_a_plain_tensor_attribute_must_be_a_buffer() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = torch.ones(6)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.mask

    with pytest.raises(poptorch.Error, match="Expected an IPU tensor"):
        poptorch.inferenceModel(Masked())(X)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones(6),
        lambda x: x * torch.arange(6) + torch.tensor(2.0),
        lambda x: torch.stack([row + torch.zeros_like(row) for row in x]),
        lambda x: x.max(dim=1).values[:, None] + x.T.T,
        lambda x: torch.cat(x.split(3, dim=1)[::-1], dim=1),
        lambda x: x[:, torch.tensor([1, 0])],
        lambda x: x[[1, 0]][:, [5, 0, 2]],
        lambda x: x + OUTSIDE.mul(2).to(x.device),
        lambda x: x + OUTSIDE.nonzero().shape[0] * OUTSIDE[OUTSIDE > 0].sum().item(),
        lambda x: x[:, : OUTSIDE.int().tolist()[0]],
        lambda x: x + torch.zeros_like(OUTSIDE),
        lambda x: x.clone().copy_(OUTSIDE),
        lambda x: x + torch.full_like(OUTSIDE, 2, device=x.device),
        lambda x: x.int() | 2 ^ x.int(),
        lambda x: torch.where(x > 3, x, torch.zeros(())),
        lambda x: x.masked_fill(x > 3, 0.0),
        lambda x: x if x.shape[0] == 2 and len(x) and x.dim() == 2 else None,
    ],
)
def test_what_a_graph_can_hold_is_left_alone(function: Callable[[Tensor], Any]) -> None:
    assert compiled(function).equal(function(X))


def test_adaptive_pooling_needs_sizes_that_divide() -> None:
    assert compiled(lambda x: F.adaptive_avg_pool2d(x, 3), IMAGE).shape == (1, 2, 3, 3)
    assert compiled(lambda x: F.adaptive_avg_pool2d(x, (None, 1)), IMAGE).shape == (1, 2, 6, 1)
    with pytest.raises(poptorch.Error, match="Input dim 6 is not divisible"):
        compiled(lambda x: F.adaptive_avg_pool2d(x, (6, 4)), IMAGE)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool3d(1)])
def test_average_pools_without_a_divisor_are_left_alone(pool: nn.Module) -> None:
    assert compiled(pool, IMAGE).equal(pool(IMAGE))


def test_divisor_override_is_refused_by_name() -> None:
    with pytest.raises(poptorch.Error, match="avg_pool2d: divisor_override"):
        compiled(lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE)


def test_torchs_own_look_at_masks_is_allowed() -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    mask = nn.Transformer.generate_square_subsequent_mask(2)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x, self.mask)

    model = Masked().train()
    x = torch.randn(3, 2, 6)
    torch.testing.assert_close(poptorch.inferenceModel(model)(x), model(x).detach())


# ---- Python runs once


class Counting(nn.Module):
    """Counts its calls in Python, as a scalar and as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.calls = 0
        self.inner.log: List[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inner.calls += 1
        self.inner.log.append(self.inner.calls)
        return x * self.inner.calls


def test_python_attributes_are_baked_in_and_change_once() -> None:
    model = Counting()
    executor = poptorch.inferenceModel(model, poptorch.Options().deviceIterations(2))
    for _ in range(3):
        assert executor(X).equal(X)
    assert model.inner.calls == 1
    assert model.inner.log == [1]


class Remembering(nn.Module):
    """Keeps what it computes for later passes, of which the device has none."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))
        self.alias = self.total
        self.step = torch.zeros(1)
        self.kept = self._kept = None
        self._calls = 0

    def forward(self, x: Tensor) -> List[Tensor]:
        if self.kept is None:
            self.kept, self._kept = x * 2, {"x": x * 3}
        if not hasattr(self, "late"):
            self.late = x * 4
        self._calls += 1
        self.step += 1  # on the host
        self.alias += x.sum()
        return [self.kept, self._kept["x"], self.late, x + self._calls,
                x + self.step.to(x.device), self.total]  # fmt: skip


def test_what_forward_keeps_for_itself_is_not_met_again() -> None:
    model = Remembering()
    executor = poptorch.inferenceModel(model, poptorch.Options().deviceIterations(2))
    for first, totals in ((1.0, [1.0, 3.0]), (5.0, [8.0, 14.0])):
        x = torch.tensor([first, first + 1])
        expected = [2 * x, 3 * x, 4 * x, x + 1, x + 1, torch.tensor(totals)]
        torch.testing.assert_close(executor(x), expected)
    assert float(model.step) == 1.0


@pytest.mark.parametrize(
    ("function", "x", "shape"),
    [
        (lambda x: x + 1, torch.ones(0, 2), r"\[0, 2\]"),
        (lambda x: x[:0].sum() + x, X, r"\[0, 6\]"),
        (lambda x: torch.cat([torch.empty(0, device=x.device), x[0]]), X, r"\[0\]"),
    ],
)
def test_tensors_without_elements_are_refused(
    function: Callable[[Tensor], Any], x: Tensor, shape: str
) -> None:
    message = rf"Zero-sized tensors are unsupported \(Got shape {shape}\)\.$"
    with pytest.raises(poptorch.Error, match=message) as error:
        compiled(function, x)
    assert error.value.type == "poptorch_cpp_error"


def test_tensors_made_without_a_device_are_announced_at_compilation(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_MODEL_CHECK_MEMORY", "0")  # fps has no rule, which would be announced

    def function(x: Tensor) -> Tensor:
        sampled = poptorch.fps(x, [0, 2], ratio=0.5)  # the device's own constants are its affair
        return x + torch.zeros(6) + torch.ones_like(x) + sampled

    executor = poptorch.inferenceModel(Runs(function))
    for _ in range(2):
        executor(X)
    assert caplog.messages == ["No device set in torch.zeros(): forcing to IPU"]


class Caching(nn.Module):
    """Keeps its last result under a key, counts in a dictionary, and replaces a list."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"calls": 0}
        self.cache: Any = {}
        self.seen: Any = []

    def forward(self, x: Tensor) -> Tensor:
        self.counts["calls"] += 1
        self.cache[self.counts["calls"]] = x.shape
        self.seen = [*self.seen, "pass"]
        return x * self.counts["calls"]


def test_dictionaries_and_lists_change_once_too() -> None:
    model = Caching()
    executor = poptorch.inferenceModel(model, poptorch.Options().deviceIterations(2))
    for _ in range(3):
        assert executor(X).equal(X)
    assert executor.model.counts == {"calls": 1}
    assert executor.model.cache == {1: torch.Size([1, 6])}
    assert executor.model.seen == ["pass"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if torch.allclose(x, x) else -x,
        lambda x: x if torch.equal(x, x) else -x,
        lambda x: x[torch.where(x > 3)[0]],
    ],
)
def test_comparisons_and_places_are_not_known(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(poptorch.Error, match=r"not known|aten::nonzero"):
        compiled(function)


def test_transforms_of_torch_func_are_left_alone() -> None:
    doubled = compiled(lambda x: torch.func.vmap(lambda row: row * 2)(x))
    assert doubled.equal(X * 2)
