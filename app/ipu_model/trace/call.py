"""One operation of torch, as the rule that translates it sees it, and the table of rules."""

from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from app.ipu_model.graph import Element, Graph, Op, Role, Tensor, element
from app.ipu_model.missing import MissingRule

__all__ = ["FILE", "RULES", "Call", "Results", "Rule", "dims", "rule"]

FILE = "app/ipu_model/trace/kinds.py"
RANDOM = "random"

Results = Union[int, Sequence[Optional[int]]]
"""Graph ids of an operation's results in torch's order; nothing for one that has no meaning."""

_ELEMENTS: Dict[torch.dtype, Element] = {}


def element_of(dtype: torch.dtype) -> Element:
    """The device's type for torch's.

    Raises:
        GraphError: the device has none.
    """
    if dtype not in _ELEMENTS:
        _ELEMENTS[dtype] = element(str(dtype))
    return _ELEMENTS[dtype]


class Emitter:
    """Appends operations to a graph at the place where the program runs now.

    `constants` are tensors whose values are known before the program runs: what is computed from
    them alone is a constant too, and no operation of the program. `from_parameters` are parameters
    and views of them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scope, self.stage, self.ipu = "", 0, 0
        self.constants: Dict[int, None] = {}
        self.from_parameters: Dict[int, None] = {}
        self.producers: Dict[int, Op] = {}

    def tensor(self, id: int) -> Tensor:
        """A tensor of the graph."""
        return self.graph.tensors[id]

    def emit_all(
        self,
        kind: str,
        inputs: Iterable[int],
        results: Sequence[Tuple[Sequence[int], Element]],
        **attributes: Any,
    ) -> List[int]:
        """Append an operation and its results, each with shape and type."""
        inputs = tuple(inputs)
        made = [self.graph.tensor(shape, type).id for shape, type in results]
        constant = kind == "fill" or (
            bool(inputs) and kind != RANDOM and all(id in self.constants for id in inputs)
        )
        if constant:
            self.constants.update(dict.fromkeys(made))
        if kind in ("view", "cast") and inputs[0] in self.from_parameters:
            self.from_parameters.update(dict.fromkeys(made))
        place = {"scope": self.scope, "stage": self.stage, "ipu": self.ipu}
        op = self.graph.add(kind, inputs, made, attributes, **place)
        self.producers.update(dict.fromkeys(made, op))
        return made

    def emit(
        self,
        kind: str,
        inputs: Iterable[int],
        shape: Sequence[int],
        type: Optional[Element] = None,
        **attributes: Any,
    ) -> int:
        """Append an operation of one result; its type is that of the first operand if not given."""
        inputs = tuple(inputs)
        type = type or self.tensor(inputs[0]).element
        return self.emit_all(kind, inputs, [(shape, type)], **attributes)[0]

    def fill(self, value: Any, shape: Sequence[int], type: Element) -> int:
        """A constant."""
        return self.emit("fill", (), shape, type, value=value)

    def constant(self, shape: Sequence[int], type: Element = Element.BOOL) -> int:
        """A constant of different elements, such as a mask or indices."""
        id = self.graph.tensor(shape, type, Role.CONSTANT).id
        self.constants[id] = None
        return id

    def cast(self, id: int, type: Element) -> int:
        """The tensor in another type, or itself."""
        if self.tensor(id).element is type:
            return id
        return self.emit("cast", (id,), self.tensor(id).shape, type)

    def reshaped(self, id: int, shape: Sequence[int]) -> int:
        """The tensor in another shape, or itself."""
        if self.tensor(id).shape == tuple(shape):
            return id
        return self.emit("view", (id,), shape, function="reshape")

    def permuted(self, id: int, axes: Sequence[int]) -> int:
        """The tensor with its dimensions in another order, or itself."""
        if list(axes) == list(range(len(axes))):
            return id
        shape = [self.tensor(id).shape[axis] for axis in axes]
        return self.emit("view", (id,), shape, function="permute", axes=tuple(axes))

    def expanded(self, id: int, shape: Sequence[int]) -> int:
        """The tensor broadcast to a shape, or itself."""
        if self.tensor(id).shape == tuple(shape):
            return id
        return self.emit("view", (id,), shape, function="expand")

    def sliced(self, id: int, axis: int, start: int, stop: int, step: int = 1) -> int:
        """Elements of the tensor along one axis, or itself if those are all."""
        shape = list(self.tensor(id).shape)
        if (start, stop, step) == (0, shape[axis], 1):
            return id
        shape[axis] = len(range(start, stop, step))
        place: Dict[str, Any] = {"axis": axis, "start": start, "stop": stop, "step": step}
        return self.emit("view", (id,), shape, function="slice", **place)

    def unary(self, function: str, id: int, **attributes: Any) -> int:
        """An elementwise function of one tensor."""
        return self.emit("unary", (id,), self.tensor(id).shape, function=function, **attributes)

    def binary(self, function: str, a: int, b: Union[int, "Number"]) -> int:
        """An elementwise function of two tensors of one type, or of a tensor and a number."""
        if isinstance(b, Number):
            shape = self.tensor(a).shape
            return self.emit("binary", (a,), shape, function=function, scalar=b.value)
        shape = torch.broadcast_shapes(self.tensor(a).shape, self.tensor(b).shape)
        return self.emit("binary", (a, b), shape, function=function)

    def concat(self, parts: Sequence[int], axis: int) -> int:
        """Tensors of one type joined along an axis."""
        shape = list(self.tensor(parts[0]).shape)
        shape[axis] = sum(self.tensor(part).shape[axis] for part in parts)
        return self.emit("concat", parts, shape, axis=axis)

    def replaced(self, id: int, axis: int, rows: range, updates: int) -> int:
        """The tensor with some rows of an axis replaced: joined parts if they stand together."""
        start, stop, size = rows.start, rows.stop, self.tensor(id).shape[axis]
        if rows.step == 1:
            before = [self.sliced(id, axis, 0, start)] if start else []
            after = [self.sliced(id, axis, stop, size)] if stop < size else []
            parts = [*before, updates, *after]
            return self.concat(parts, axis) if len(parts) > 1 else updates
        indices = self.constant([len(rows)], Element.INT32)
        place: Dict[str, Any] = {"axis": axis, "function": "set"}
        return self.emit("scatter", (id, indices, updates), self.tensor(id).shape, **place)


class Number:
    """A Python number among operands that are ids of tensors."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Call:
    """One call of a torch operation, with what its rule needs to emit.

    `name` is the operation's without overload and without the mark of in-place ones; `results` are
    torch's, of which a rule reads shapes and types alone, since an in-place one has the operand's.
    """

    def __init__(
        self,
        emitter: Emitter,
        name: str,
        arguments: Mapping[str, Any],
        results: Sequence[torch.Tensor],
        id_of: Callable[[torch.Tensor], int],
    ) -> None:
        self.to = emitter
        self.name = name
        self.arguments = arguments
        self.results = results
        self._id_of = id_of

    def get(self, *names: str) -> Any:
        """The argument of the first of these names that the operation has, or None."""
        return next((self.arguments[name] for name in names if name in self.arguments), None)

    def id(self, *names: str) -> int:
        """Graph id of a tensor argument."""
        return self._id_of(self.get(*names))

    def id_of(self, tensor: torch.Tensor) -> int:
        """Graph id of a tensor of a list."""
        return self._id_of(tensor)

    def maybe_id(self, name: str) -> Optional[int]:
        """Graph id of a tensor argument that may be missing."""
        return None if self.get(name) is None else self.id(name)

    def shape_of(self, id: int) -> Tuple[int, ...]:
        """Shape of a tensor of the graph, before an in-place operation changed torch's."""
        return self.to.tensor(id).shape

    @property
    def shape(self) -> Tuple[int, ...]:
        """Shape of the first result."""
        return tuple(self.results[0].shape)

    @property
    def type(self) -> Element:
        """Device type of the first result."""
        return element_of(self.results[0].dtype)

    def emit(self, kind: str, inputs: Iterable[int], **attributes: Any) -> int:
        """Append an operation whose result is torch's first."""
        return self.to.emit(kind, inputs, self.shape, self.type, **attributes)

    def refuse(self, why: str) -> MissingRule:
        """The error for a call that the rule does not cover."""
        return MissingRule(f"aten.{self.name} {why}", self.to.scope or "<root>", FILE)


Rule = Callable[[Call], Results]

RULES: Dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the translation of these aten operations.

    Raises:
        ValueError: one has a rule already.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"{name}: has a rule already, {RULES[name].__name__}")
            RULES[name] = function
        return function

    return register


def dims(given: Any, rank: int) -> Tuple[int, ...]:
    """Axes counted from 0, ascending; none given means all."""
    if given is None or given == []:
        return tuple(range(rank))
    listed = given if isinstance(given, (list, tuple)) else [given]
    return tuple(sorted(int(axis) % max(rank, 1) for axis in listed)) if rank else ()
