"""Context managers around operations: what they accept, and what they tell the device."""

from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import Attribute, MultiConv, NameScope
from app.ipu_model.poptorch._graph.rules import Annotation
from app.ipu_model.poptorch.enums import MultiConvPlanType
from tests.ipu_model.capturing import events_of


def notes(run: Callable[[], Any]) -> List[Tuple[str, Dict[str, Any]]]:
    return [(e.kind, e.details) for e in events_of(run) if isinstance(e, Annotation)]


def test_name_scope_names_and_needs_a_string() -> None:
    def run() -> None:
        with NameScope("head"):
            pass

    assert notes(run) == [("push_name_scope", {"name": "head"}), ("pop_name_scope", {})]
    run()
    with pytest.raises(AssertionError, match=r"^Parameter to NameScope must be a string$"):
        NameScope(1)  # type: ignore[arg-type]


def test_attributes_nest_and_come_back() -> None:
    def run() -> None:
        with Attribute(__outline={"layer": "a"}), Attribute(__outline={"layer": "b", "k": "c"}):
            pass

    def note(kind: str, **details: str) -> Tuple[str, Dict[str, str]]:
        return kind, {"attribute": "__outline", **details}

    assert notes(run) == [
        note("set_attribute", key="layer", value="a"),
        note("set_attribute", key="layer", value="b"),
        note("set_attribute", key="k", value="c"),
        note("set_attribute", key="layer", value="a"),
        note("clear_attribute", key="k"),
        note("clear_attribute", key="layer"),
    ]
    assert Attribute._current_attrs == {}


def test_multi_convolution_passes_its_options_on() -> None:
    multi = (
        MultiConv()
        .availableMemoryProportions((0.8, 0.7))
        .partialsTypes(torch.half)
        .planType(MultiConvPlanType.Serial)
        .perConvReservedTiles(100)
        .cycleBackOff(0.3)
        .enableConvDithering([True, False])
    )

    def run() -> None:
        with multi:
            pass

    assert notes(run) == [
        ("begin_multi_conv", {}),
        ("end_multi_conv", {
            "available_memory_proportions": (0.8, 0.7), "partials_types": [1], "plan_type": 1,
            "per_conv_reserved_tiles": 100, "cycle_back_off": 0.3,
            "enableConvDithering": [True, False],
        }),
    ]  # fmt: skip


def test_multi_convolution_takes_one_value_for_all_or_none() -> None:
    multi = MultiConv().availableMemoryProportions(0.5).enableConvDithering(True)
    assert multi._available_memory_proportions == (0.5,)
    assert multi._enable_conv_ditherings == (True,)
    multi.availableMemoryProportions(None).enableConvDithering(None).planType(None)
    assert multi._available_memory_proportions is None
    assert multi._enable_conv_ditherings is None
    assert multi.partialsTypes([torch.float, torch.half])._partials_types == [0, 1]


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda m: m.availableMemoryProportions(1), AssertionError, "Invalid available memory pro"),
        (lambda m: m.availableMemoryProportions([]), AssertionError, "Invalid available memory pr"),
        (
            lambda m: m.partialsTypes(torch.int),
            ValueError,
            "Invalid partials types. Expecting torc",
        ),
        (lambda m: m.partialsTypes([torch.half, 0]), ValueError, "Invalid partials types. Expecti"),
        (lambda m: m.enableConvDithering(1), ValueError, "value must be bool or list of bools"),
        (lambda m: m.enableConvDithering([1]), ValueError, "value must be bool or list of bools"),
        (lambda m: m.planType(0), AssertionError, "Invalid plan type!"),
        (lambda m: m.perConvReservedTiles(1.0), AssertionError, None),
        (lambda m: m.cycleBackOff(1), AssertionError, None),
    ],
)
def test_multi_convolution_refuses_other_values(call: Any, kind: Any, message: Any) -> None:
    with pytest.raises(kind, match=message):
        call(MultiConv())


def test_scopes_change_no_number() -> None:
    first, second = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
    x = torch.randn(2, 1, 5, 5)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: Tensor) -> Tensor:
            with MultiConv(), NameScope("pair"), Attribute(__outline={"layer": "pair"}):
                return self.first(x) - self.second(x)  # type: ignore[no-any-return]

    assert torch.allclose(poptorch.inferenceModel(Net())(x), first(x) - second(x), atol=1e-6)
