"""What a gradient rule grows with: operations at the right place, and sums of gradients."""

from dataclasses import dataclass
from typing import AbstractSet, Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np

from app.ipu_model.graph import Element, Graph, GraphError, Op, Phase

__all__ = ["Growth"]

Shape = Tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """The gradient of a slice of a tensor, and the operation that sliced it."""

    axis: int
    start: int
    stop: int
    gradient: int
    op: Op


class Growth:
    """A graph that grows backwards.

    New operations run on the scope, stage and IPU of `op`, the forward operation that is being
    differentiated. `wanted` are the tensors of the forward graph that need a gradient; `gradients`
    are those known so far, by forward tensor.
    """

    def __init__(self, graph: Graph, wanted: AbstractSet[int], op: Op) -> None:
        self.graph = graph
        self.wanted = wanted
        self.op = op
        self.gradients: Dict[int, int] = {}
        self.parts: Dict[int, List[Part]] = {}
        self.producers = graph.producers()
        self.consumers = graph.consumers()

    def wants(self, tensor: int) -> bool:
        """Whether a parameter is reached from the tensor's gradient."""
        return tensor in self.wanted

    def give(self, tensor: int, gradient: int) -> None:
        """Add to a wanted tensor's gradient, in the tensor's type.

        popart sums each gradient into the sum so far as soon as it is there (willow/src/transforms/
        decomposegradsum.cpp), in place where it can.

        Raises:
            GraphError: the gradient has another shape, or nobody needs it.
        """
        shape = self.shape(tensor)
        if tensor not in self.wanted or self.shape(gradient) != shape:
            raise GraphError(
                f"op {self.op.id} ({self.op.label}): tensor {tensor} of shape {shape} takes no "
                f"gradient of shape {self.shape(gradient)}; its rule is wrong"
            )
        gradient = self.cast(gradient, self.element(tensor))
        if tensor in self.gradients:
            operands = (self.gradients.pop(tensor), gradient)
            gradient = self.emit("binary", operands, shape, {"function": "add", "in_place": True})
        self.gradients[tensor] = gradient

    def give_part(self, tensor: int, axis: int, start: int, gradient: int) -> None:
        """Add to a wanted tensor's gradient that of a slice along one axis.

        Slices that do not overlap are concatenated rather than padded and summed (popart
        willow/src/patterns/padsum.cpp); `finish` does so.
        """
        stop = start + self.shape(gradient)[axis]
        others = self.parts.get(tensor, [])
        if any(part.axis != axis or (part.start < stop and start < part.stop) for part in others):
            self.finish(tensor)
        gradient = self.cast(gradient, self.element(tensor))
        part = Part(axis, start, stop, gradient, self.op)
        self.parts.setdefault(tensor, []).append(part)

    def finish(self, tensor: int) -> None:
        """Put the parts of a tensor's gradient together; no more of it will come."""
        parts = self.parts.pop(tensor, [])
        if not parts:
            return
        current, self.op = self.op, parts[-1].op
        parts.sort(key=lambda part: part.start)
        alone = len(parts) == 1
        whole = self._padded(tensor, parts[0]) if alone else self._joined(tensor, parts)
        self.give(tensor, whole)
        self.op = current

    def _padded(self, tensor: int, part: Part) -> int:
        shape = self.shape(tensor)
        around = (part.start, shape[part.axis] - part.stop)
        if around == (0, 0):
            return part.gradient
        padding = tuple(around if axis == part.axis else (0, 0) for axis in range(len(shape)))
        attributes = {"function": "pad", "padding": padding, "value": 0.0}
        return self.emit("copy", (part.gradient,), shape, attributes)

    def _joined(self, tensor: int, parts: List[Part]) -> int:
        shape, axis = self.shape(tensor), parts[0].axis
        pieces: List[int] = []
        end = 0
        for part in parts:
            pieces += [*self._gap(tensor, axis, end, part.start), part.gradient]
            end = part.stop
        pieces += self._gap(tensor, axis, end, shape[axis])
        return self.emit("concat", pieces, shape, {"axis": axis})

    def _gap(self, tensor: int, axis: int, start: int, stop: int) -> List[int]:
        """Zeros where no slice has read."""
        if start == stop:
            return []
        shape = self.shape(tensor)
        gap = (*shape[:axis], stop - start, *shape[axis + 1 :])
        return [self.fill(0.0, gap, self.element(tensor))]

    def shape(self, tensor: int) -> Shape:
        """Shape of a tensor."""
        return self.graph.tensors[tensor].shape

    def element(self, tensor: int) -> Element:
        """Type of a tensor."""
        return self.graph.tensors[tensor].element

    def emit(
        self,
        kind: str,
        inputs: Iterable[int],
        shape: Shape,
        attributes: Optional[Mapping[str, Any]] = None,
        element: Optional[Element] = None,
    ) -> int:
        """Append an operation of one result; its type is that of the first operand if not given."""
        operands = tuple(inputs)
        result = self.graph.tensor(shape, element or self.element(operands[0])).id
        self._append(kind, operands, (result,), attributes)
        return result

    def emit_like(
        self,
        kind: str,
        inputs: Iterable[int],
        likes: Iterable[int],
        attributes: Optional[Mapping[str, Any]] = None,
    ) -> Tuple[int, ...]:
        """Append an operation whose results have the shapes and types of `likes`."""
        results = tuple(self.graph.like(like).id for like in likes)
        self._append(kind, tuple(inputs), results, attributes)
        return results

    def _append(
        self,
        kind: str,
        inputs: Tuple[int, ...],
        outputs: Tuple[int, ...],
        attributes: Optional[Mapping[str, Any]],
    ) -> None:
        self.graph.add(
            kind,
            inputs,
            outputs,
            attributes,
            scope=self.op.scope,
            stage=self.op.stage,
            ipu=self.op.ipu,
            phase=Phase.BACKWARD,
            forward_of=self.op.id,
        )

    def fill(self, value: float, shape: Shape, element: Element) -> int:
        """A constant."""
        return self.emit("fill", (), shape, {"value": value}, element)

    def unary(self, function: str, x: int) -> int:
        """An elementwise function."""
        return self.emit("unary", (x,), self.shape(x), {"function": function})

    def binary(self, function: str, a: int, b: int) -> int:
        """An elementwise function of two tensors, broadcast."""
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        return self.emit("binary", (a, b), shape, {"function": function})

    def scaled(self, function: str, x: int, scalar: float) -> int:
        """An elementwise function of a tensor and a number."""
        attributes = {"function": function, "scalar": scalar}
        return self.emit("binary", (x,), self.shape(x), attributes)

    def divided(self, x: int, count: int) -> int:
        """The tensor divided by a count, or itself."""
        return x if count == 1 else self.scaled("div", x, float(count))

    def selected(self, condition: int, a: int, b: int) -> int:
        """One tensor where the condition holds, the other elsewhere, broadcast."""
        shape = np.broadcast_shapes(self.shape(condition), self.shape(a), self.shape(b))
        return self.emit("select", (condition, a, b), shape, None, self.element(a))

    def cast(self, x: int, element: Element) -> int:
        """The tensor in another type, or itself."""
        if self.element(x) is element:
            return x
        return self.emit("cast", (x,), self.shape(x), None, element)

    def reshaped(self, x: int, shape: Shape) -> int:
        """The tensor in another shape, or itself."""
        if self.shape(x) == shape:
            return x
        return self.emit("view", (x,), shape, {"function": "reshape"})

    def expanded(self, x: int, shape: Shape) -> int:
        """The tensor broadcast to a shape, or itself."""
        if self.shape(x) == shape:
            return x
        return self.emit("view", (x,), shape, {"function": "expand"})

    def permuted(self, x: int, axes: Tuple[int, ...]) -> int:
        """The tensor with its dimensions in another order."""
        shape = tuple(self.shape(x)[axis] for axis in axes)
        return self.emit("view", (x,), shape, {"function": "permute", "axes": axes})

    def summed_to(self, x: int, shape: Shape) -> int:
        """The tensor summed over the dimensions along which `shape` was broadcast to its own."""
        wide = self.shape(x)
        if wide == shape:
            return x
        added = len(wide) - len(shape)
        axes = tuple(
            axis
            for axis, size in enumerate(wide)
            if axis < added or (size != 1 and shape[axis - added] == 1)
        )
        return self.reshaped(self.reduced("sum", x, axes), shape)

    def reduced(self, function: str, x: int, axes: Tuple[int, ...]) -> int:
        """The tensor reduced over axes, which stay with size 1."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shape(x)))
        attributes = {"function": function, "axes": axes, "keepdim": True}
        return self.emit("reduce", (x,), shape, attributes)
