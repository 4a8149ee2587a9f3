"""Overlapped transfers: annotations keep structures, and misplaced ones are refused."""

from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import torch
from torch import Tensor

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.capture import Capture
from app.ipu_model.poptorch._graph.overlap import check_overlap
from app.ipu_model.poptorch._graph.rules import Annotation, DeviceTensors, Event, GraphRecorder
from app.ipu_model.poptorch.enums import OutputMode, OverlapMode

LOOP, NONE = OverlapMode.OverlapAccumulationLoop, OverlapMode.NoOverlap
INPUT, OUTPUT = poptorch.set_overlap_for_input, poptorch.set_overlap_for_output


def captured(
    forward: Callable[[Tensor], Any], x: Tensor
) -> Tuple[List[Event], List[Tensor], Dict[int, int]]:
    recorder = GraphRecorder(DeviceTensors([x]))
    with Capture(False, recorder=recorder):
        outputs = forward(x)
    return recorder.events, list(outputs), recorder.uses


def check(forward: Callable[[Tensor], Any], options: Optional[poptorch.Options] = None) -> None:
    x = torch.tensor([1.0])
    events, outputs, uses = captured(forward, x)
    check_overlap(options or overlapping(), events, {"x": x}, outputs, uses)


def overlapping(
    strategy: Any = None, tiles: int = 32, mode: OutputMode = OutputMode.All
) -> poptorch.Options:
    options = poptorch.Options().outputMode(mode)
    options.setExecutionStrategy(strategy or poptorch.ShardedExecution())
    if tiles:
        options.TensorLocations.numIOTiles(tiles)
    return options


# ---- annotations


def test_structures_are_kept() -> None:
    x, y = torch.ones(1), torch.zeros(2)
    value = {"a": [x, (y, 3)], "b": None}
    for annotate in (INPUT, OUTPUT):
        result = annotate(value, LOOP)
        assert result["a"][0] is x
        assert result["a"][1] == (y, 3)
        assert result["b"] is None


def test_device_gets_another_tensor_of_the_same_data() -> None:
    x = torch.ones(2)
    events, (result,), _ = captured(lambda t: [INPUT(t, LOOP)], x)
    assert result is not x
    assert result.data_ptr() == x.data_ptr()
    (mark,) = [event for event in events if isinstance(event, Annotation)]
    assert (mark.kind, mark.details["mode"]) == (
        "set_overlap_for_input", "overlap_accumulation_loop")  # fmt: skip


def test_mode_must_be_one() -> None:
    with pytest.raises(AttributeError):
        INPUT(torch.ones(1), "overlap_accumulation_loop")  # type: ignore[arg-type]


# ---- rules


def test_annotated_inputs_and_outputs_are_accepted() -> None:
    check(lambda x: [OUTPUT(INPUT(x, LOOP) + 1, LOOP)])
    check(lambda x: [OUTPUT(INPUT(x, LOOP) + 1, LOOP)], overlapping(mode=OutputMode.Sum))


def test_annotated_input_has_no_other_use() -> None:
    def forward(x: Tensor) -> Any:
        y = x + 1
        return y, INPUT(x, LOOP)

    with pytest.raises(
        poptorch.Error,
        match=r"poptorch.set_overlap_for_input must be the only op applied to an input. This is "
        r"not the case for input x to the model\.",
    ):
        check(forward)


def test_only_inputs_are_annotated_as_inputs() -> None:
    with pytest.raises(
        poptorch.Error,
        match=r"poptorch.set_overlap_for_input applied on a node which is not a tensor input to "
        r"the model\.",
    ):
        check(lambda x: [INPUT(x + 1, LOOP)])


def test_annotated_output_is_returned_once() -> None:
    def forward(x: Tensor) -> Any:
        y = x + 1
        return y, OUTPUT(y, LOOP)

    with pytest.raises(
        poptorch.Error,
        match=r"set_overlap_for_output cannot be used with a tensor that is returned twice. Please "
        r"check all returned tensors including those nested in tuples/lists\.",
    ):
        check(forward)


def test_annotated_output_may_be_used_otherwise() -> None:
    def forward(x: Tensor) -> Any:
        y = x + 1
        marked = OUTPUT(y, LOOP)
        return marked, y + 1, marked + 1

    check(forward)


def test_only_outputs_are_annotated_as_outputs() -> None:
    with pytest.raises(
        poptorch.Error,
        match=r"poptorch.set_overlap_for_output applied on a node which is not a tensor output to "
        r"the model\.",
    ):
        check(lambda x: [OUTPUT(x, LOOP) + 1])


@pytest.mark.parametrize(
    "options, message",
    [
        (lambda: overlapping(poptorch.PipelinedExecution()), r"Overlapped IO is not supported with "
         r"poptorch.PipelinedExecution. If you are using only one IPU, please switch to poptorch."),
        (lambda: overlapping(tiles=0), r"No IO tiles allocated. You must allocate at least 32 IO "
         r"tiles using poptorch.Options\(\).TensorLocations.numIOTiles\."),
        (lambda: overlapping(mode=OutputMode.Final), r"Unsupported output mode for overlapped IO. "
         r"Please switch output mode to poptorch.OutputMode.All or poptorch.OutputMode.Sum\."),
    ],
)  # fmt: skip
def test_options_must_allow_overlap(options: Any, message: str) -> None:
    for forward in (lambda x: [INPUT(x, LOOP) + 1], lambda x: [OUTPUT(x + 1, LOOP)]):
        with pytest.raises(poptorch.Error, match=message) as caught:
            check(forward, options())
        assert caught.value.type == "poptorch_cpp_error"
    check(lambda x: [OUTPUT(INPUT(x, NONE) + 1, NONE)], options())
    check(lambda x: [x + 1], options())
