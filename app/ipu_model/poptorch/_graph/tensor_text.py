"""``ipu_print_tensor``: values of tensors on the device, as text on standard error.

Source: graphcore/poptorch, python/ops.py; the layout is Poplar's as far as public examples show it
(graphcore/poptorch, tests: print_tensor).
"""

import math
import sys
from typing import Any, Callable, List, NamedTuple, Sequence

import torch

from app.ipu_model.poptorch._graph.capture import active_capture
from app.ipu_model.poptorch._graph.device_operations import device_operation, is_compiling
from app.ipu_model.poptorch.errors import Error

_FLOAT_FORMATS = {"auto": 0, "fixed": 1, "scientific": 2, "none": 3}
_AUTO, _FIXED, _SCIENTIFIC, _UNALIGNED = range(4)


class TextFormat(NamedTuple):
    """How a tensor is written; the fields are arguments of ``ipu_print_tensor``."""

    summarise_threshold: int = 1000
    edge_items: int = 3
    max_line_width: int = 80
    digits: int = 4
    float_format: int = _AUTO
    separator: str = ", "
    open_bracket: str = "("
    close_bracket: str = ")"


def ipu_print_tensor(
    tensor: torch.Tensor,
    title: str = "",
    print_gradient: bool = True,
    summarise_threshold: int = 1000,
    edge_items: int = 3,
    max_line_width: int = 80,
    digits: int = 4,
    float_format: str = "auto",
    separator: str = ", ",
    open_bracket: str = "(",
    close_bracket: str = ")",
) -> torch.Tensor:
    """Print the tensor whenever the device gets here, and its gradient in the backward pass.

    Args:
        tensor: any.
        title: printed before the values; "_gradient" is added for the gradient, which carries the
            loss scaling.
        print_gradient: whether the gradient is printed.
        summarise_threshold: larger tensors show the edges of each dimension only; 0 is no limit.
        edge_items: values shown at each edge.
        max_line_width: longer lines are split; 0 is no limit.
        digits: significant digits; 0 leaves values unaligned.
        float_format: "auto", "fixed", "scientific" or "none".
        separator: between values.
        open_bracket: before each dimension.
        close_bracket: after each dimension.

    Returns:
        The tensor; only what uses this result has its gradient printed.

    Raises:
        Error: no tensor.
        KeyError: another format.
    """
    if not isinstance(tensor, torch.Tensor):
        raise Error(f"ipu print tensor must take a torch.tensor argument. {type(tensor)} is not "
                    "supported.")  # fmt: skip
    return print_values(
        tensor, title, int(print_gradient), summarise_threshold, edge_items, max_line_width, digits,
        _FLOAT_FORMATS[float_format], separator, open_bracket, close_bracket,
    )  # fmt: skip


@device_operation
def print_values(
    tensor: torch.Tensor, title: str, print_gradient: int, *text_format: Any
) -> torch.Tensor:
    """``ipu_print_tensor`` without checks; the remaining arguments are a ``TextFormat``'s."""
    if active_capture() is None:
        return tensor
    result = tensor.view(tensor.shape)
    if is_compiling():
        return result
    style = TextFormat(*text_format)
    _print(title, tensor, style)
    if print_gradient and result.requires_grad:
        result.register_hook(lambda gradient: _print(f"{title}_gradient", gradient, style))
    return result


def _print(title: str, tensor: torch.Tensor, style: TextFormat) -> None:
    start = f"{title}: " if title else ""
    print(start + tensor_text(tensor, style), file=sys.stderr)


def tensor_text(tensor: torch.Tensor, style: TextFormat) -> str:
    """The tensor's values, one line per row and brackets around each dimension."""
    tensor = tensor.detach()
    write = _writer(tensor, style)
    summarise = 0 < style.summarise_threshold < tensor.numel()
    edges = style.edge_items if summarise else 0
    if tensor.dim() == 0:
        return write(tensor.item())
    return "\n".join(_lines(tensor, write, style, edges, depth=0))


def _lines(
    tensor: torch.Tensor, write: Callable[[Any], str], style: TextFormat, edges: int, depth: int
) -> List[str]:
    margin = " " * depth
    if tensor.dim() == 1:
        words = _shown([write(value) for value in tensor.tolist()], edges)
        return _row(words, style, margin)
    inner = _shown(
        [_lines(part, write, style, edges, depth + 1) for part in tensor.unbind()], edges
    )
    lines = [margin + style.open_bracket]
    for part in inner:
        lines += [f"{margin} ..."] if part == "..." else part
    return [*lines, margin + style.close_bracket]


def _shown(items: Sequence[Any], edges: int) -> List[Any]:
    if edges == 0 or len(items) <= 2 * edges:
        return list(items)
    return [*items[:edges], "...", *items[-edges:]]


def _row(words: Sequence[str], style: TextFormat, margin: str) -> List[str]:
    lines = [margin + style.open_bracket]
    start = len(lines[0])
    for position, word in enumerate(words):
        text = word + (style.separator if position + 1 < len(words) else "")
        too_long = 0 < style.max_line_width < len(lines[-1]) + len(text.rstrip())
        if too_long and len(lines[-1]) > start:
            lines.append(margin + "  ")
            start = len(lines[-1])
        lines[-1] += text
    lines[-1] += style.close_bracket
    return [line.rstrip() for line in lines]


def _writer(tensor: torch.Tensor, style: TextFormat) -> Callable[[Any], str]:
    """What turns one value into text, the same way for all of the tensor's."""
    if not tensor.is_floating_point():
        if tensor.dtype == torch.bool:
            tensor = tensor.int()
        width = max((len(str(int(v))) for v in tensor.flatten().tolist()), default=0)
        return lambda value: str(int(value)).rjust(width if style.digits else 0)
    if style.digits == 0 or style.float_format == _UNALIGNED:
        return lambda value: f"{value:.{style.digits or 6}g}"
    sizes = [abs(value) for value in tensor.flatten().tolist() if value and math.isfinite(value)]
    largest = math.floor(math.log10(max(sizes))) if sizes else 0
    smallest = math.floor(math.log10(min(sizes))) if sizes else 0
    spread = largest >= style.digits or smallest < -style.digits
    if style.float_format == _SCIENTIFIC or (style.float_format == _AUTO and spread):
        text = f".{style.digits - 1}e"
    else:
        text = f".{max(style.digits - 1 - max(largest, 0), 0)}f"
    width = max((len(format(v, text)) for v in tensor.flatten().tolist()), default=0)
    return lambda value: format(value, text).rjust(width)
