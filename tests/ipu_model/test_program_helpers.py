"""What programs use beside models: log level, comparison, trace points, printed modules, names."""

import logging
import re
from typing import Any, Iterator

import pytest
import torch
from torch import nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._logging import logger

X = torch.tensor([1.0, 2.0])


# ---- log level


@pytest.fixture
def level() -> Iterator[None]:
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(
    "name, number, expected",
    [("TRACE", 0, logging.DEBUG), ("DEBUG", 1, logging.DEBUG), ("INFO", 2, logging.INFO),
     ("WARN", 3, logging.WARNING), ("ERR", 4, logging.ERROR), ("OFF", 6, logging.CRITICAL)],
)  # fmt: skip
def test_level_has_a_name_and_a_number(name: str, number: int, expected: int) -> None:
    for value in (name, number):
        logger.setLevel(logging.NOTSET)
        poptorch.setLogLevel(value)
        assert logger.level == expected


def test_other_levels_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^Unknown log level: warn. Valid values are DEBUG, ERR, INFO, OFF, TRACE and WARN$",
    ):
        poptorch.setLogLevel("warn")
    with pytest.raises(ValueError, match=r"^Invalid log level integer$"):
        poptorch.setLogLevel(5)


def test_messages_carry_time_logger_and_level() -> None:
    record = logging.LogRecord(logger.name, logging.WARNING, "", 0, "reserving %d", (4,), None)
    formatter = logger.handlers[0].formatter
    assert formatter is not None
    assert re.match(
        r"\[\d\d:\d\d:\d\d\.\d{3}\] \[poptorch::python\] \[warning\] reserving 4$",
        formatter.format(record),
    )


# ---- comparison and trace points


@pytest.mark.parametrize(
    "ref, other, close",
    [
        (X, X + 1e-9, True), (X, X + 1, False), ((X, [X]), (X, [X]), True), ((X,), [X], False),
        ([X], [X, X], False), ((X, [X]), (X, [X + 1]), False), (X, [X], False), ((), (), True),
    ],
)  # fmt: skip
def test_structures_and_values_are_compared(ref: Any, other: Any, close: bool) -> None:
    assert poptorch.testing.allclose(ref, other) is close


def test_comparison_refuses_other_structures() -> None:
    with pytest.raises(TypeError, match=r"allclose: <class 'dict'> not supported"):
        poptorch.testing.allclose({}, {})


def test_trace_points_do_nothing() -> None:
    channel = poptorch.profiling.Channel("app")
    assert channel.instrument(X, "sum") is X
    with channel.tracepoint("step") as nothing:
        pass
    assert nothing is None


# ---- modules as text


def test_modules_are_shown_with_their_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU()))
    assert poptorch.module_repr(net) == repr(net)
    poptorch.BeginBlock(net[1], ipu_id=1)
    text = (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (1): BeginBlock(user_id=None, ipu_id=1) Sequential(\n"
        "    (0): ReLU()\n"
        "  )\n"
        ")"
    )
    assert poptorch.module_repr(net) == text
    poptorch.print(net)
    assert capsys.readouterr().out == f"{text}\n{net!r}\n"
    poptorch.print(3)
    assert capsys.readouterr().out == "3\n"


# ---- names


def test_attributes_are_json_or_refused() -> None:
    assert poptorch.accessAttributes('{"alpha": 0.5}') == {"alpha": 0.5}
    with pytest.raises(ValueError, match=r"^Wrong type for attribute_id_str$"):
        poptorch.accessAttributes(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Invalid attribute_id_str$"):
        poptorch.accessAttributes("0x12")
    with pytest.raises(poptorch.Error, match=r"'attr:0x12' is the address of a custom operation's"):
        poptorch.accessAttributes("attr:0x12")


def test_tensors_have_a_number_each() -> None:
    assert poptorch.getIpuTensorId(X) == poptorch.getIpuTensorId(X)
    assert poptorch.getIpuTensorId(X) != poptorch.getIpuTensorId(X.clone())
    with pytest.raises(
        poptorch.Error, match=r"getIpuTensorId: expected a torch.Tensor, got <class"
    ):
        poptorch.getIpuTensorId(1)  # type: ignore[arg-type]
