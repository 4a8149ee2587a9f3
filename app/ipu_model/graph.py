"""The op graph: what a program computes on the device, one micro-batch of one replica.

A graph is data. Tracing makes the forward graph, `autodiff` grows it into a training graph, cost
rules, memory and schedule read it. An operation's `kind` is the unit of knowledge: each kind has a
gradient rule and a cost rule. The kinds, with operands -> results; attributes:

    conv            x [N, C, *field], w [O, C/groups, *kernel] -> y
                    stride, dilation (per dim), padding (a pair per dim), groups
    conv_transpose  x, w [C, O/groups, *kernel] -> y; the same, and output_padding
    matmul          a [..., M, K], b [..., K, N] -> y; linear: b is (a view of) a parameter
    unary           x -> y; function (silu, exp, ...) and what it needs
    binary          a, b -> y, broadcast as numpy does; function; `scalar` stands for a missing b
    select          condition, a, b -> y
    cast            x -> y
    reduce          x -> y; function (sum, mean, max, ...), axes, keepdim
    group_norm      x [N, C, *field], weight and bias if affine -> y, mean, inv_std
                    groups, epsilon, affine
    layer_norm      the same over the last `axes` dimensions; axes, epsilon, affine
    batch_norm      x, weight and bias if affine, running mean and variance if running
                    -> y, mean, inv_std; training, epsilon, affine, running
    online_norm     x [N, C, *field], streams of mean, variance, projection and gradient [C]
                    -> y, and [N, C] each: inv_std, means of y and y^2
                    decay, backward_decay, epsilon
    softmax         x -> y; axis. log_softmax: likewise
    nll_loss        log-probabilities [N, C, ...], labels -> loss; reduction
    identity_loss   x -> loss; reduction
    max_pool        x -> y, or y and indices; kernel, stride, padding (pairs). avg_pool: x -> y
    resize          x -> y, interpolated; mode
    view            x -> y: the same elements in another shape or order, some of them, or broadcast
                    (free on the IPU: a tensor is an expression); function: reshape, permute (axes),
                    slice (axis, start, stop, step), expand, detach (stops gradients)
    copy            x -> y: elements move; function: copy, pad (padding: a pair per dim, negative
                    crops; value), flip (axes), roll (shifts, axes)
    concat          parts -> y; axis
    gather          x, indices -> y; axis. scatter: x, indices, updates -> y; axis, function
    sort            x -> values, indices; axis, count
    scan            x -> y, a cumulative function; function, axis
    random          like x, or nothing -> y; function
    fill            nothing -> y, a constant (free: made once); value
    *_grad          what `autodiff` grows; documented there
    accumulate      gradient, accumulator -> nothing
    update          parameter, gradient or accumulator, state ... -> nothing; see `autodiff`
    all_reduce      x -> x, over replicas
    inter_ipu_copy  x -> x on the IPU of `to_stage`
    stash, restore  x -> x; slots
    host_load       nothing -> x. host_store: x -> nothing
"""

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import MappingProxyType
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

__all__ = ["Element", "Graph", "GraphError", "Op", "Phase", "Role", "Tensor", "element"]


class GraphError(ValueError):
    """A graph that contradicts itself."""


class Element(Enum):
    """Element type on the device; the IPU has no 64-bit types, they become 32-bit ones."""

    FLOAT = "float"
    HALF = "half"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return _ELEMENT_BYTES[self]

    @property
    def floating(self) -> bool:
        """Whether gradients can flow through tensors of this type."""
        return self in (Element.FLOAT, Element.HALF)


_ELEMENT_BYTES = {
    Element.FLOAT: 4,
    Element.HALF: 2,
    Element.INT32: 4,
    Element.INT16: 2,
    Element.INT8: 1,
    Element.UINT8: 1,
    Element.BOOL: 1,
}
_FROM_NAMES = {
    "float32": Element.FLOAT,
    "float64": Element.FLOAT,
    "float16": Element.HALF,
    "bfloat16": Element.HALF,
    "int64": Element.INT32,
    "int32": Element.INT32,
    "int16": Element.INT16,
    "int8": Element.INT8,
    "uint8": Element.UINT8,
    "bool": Element.BOOL,
}


def element(name: str) -> Element:
    """The device's type for numpy's or torch's type of this name ("float32", "torch.int64").

    Raises:
        GraphError: the device has none.
    """
    bare = name.rsplit(".", 1)[-1]
    if bare not in _FROM_NAMES:
        raise GraphError(f"{name}: the IPU has no such type; use one of {', '.join(_FROM_NAMES)}")
    return _FROM_NAMES[bare]


class Role(Enum):
    """Where a tensor comes from, which decides how long it lives."""

    INPUT = "input"
    """Streamed from the host for every micro-batch."""
    PARAMETER = "parameter"
    """A weight; always live."""
    BUFFER = "buffer"
    """Persistent and not trained, such as running statistics; always live."""
    CONSTANT = "constant"
    """Made at compile time; always live."""
    ACTIVATION = "activation"
    """Made by an operation of the micro-batch."""
    STATE = "state"
    """Optimiser state or gradient accumulator; always live."""


class Phase(Enum):
    """When an operation runs."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"
    """A forward operation, run again before the backward pass."""
    BACKWARD = "backward"
    UPDATE = "update"
    """Once per weight update."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph; `name` is a parameter's qualified name, else empty or a hint."""

    id: int
    shape: Tuple[int, ...]
    element: Element
    role: Role = Role.ACTIVATION
    name: str = ""
    trainable: bool = True
    """Whether a parameter gets a gradient; of no meaning for other roles."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return self.elements * self.element.bytes


@dataclass(frozen=True)
class Op:
    """One operation.

    `scope` is the dotted name of the module that ran it, `stage` the pipeline stage, `ipu` the IPU
    within the replica. `forward_of` names the forward operation whose gradient or recomputation
    this one is.
    """

    id: int
    kind: str
    inputs: Tuple[int, ...]
    outputs: Tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    stage: int = 0
    ipu: int = 0
    phase: Phase = Phase.FORWARD
    forward_of: Optional[int] = None

    def __post_init__(self) -> None:
        if not isinstance(self.attributes, MappingProxyType):
            object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> Any:  # a mapping proxy cannot be copied or pickled
        values = (self.id, self.kind, self.inputs, self.outputs, dict(self.attributes))
        return Op, (*values, self.scope, self.stage, self.ipu, self.phase, self.forward_of)

    def changed(self, **values: Any) -> "Op":
        """The operation with other values of some fields.

        Programs are rewritten operation by operation, many times over: this takes a tenth of the
        time of `dataclasses.replace`.
        """
        made = object.__new__(Op)
        made.__dict__.update(self.__dict__)
        made.__dict__.update(values)
        if "attributes" in values:
            made.__post_init__()
        return made

    @property
    def function(self) -> str:
        """The attribute of that name, or nothing."""
        return str(self.attributes.get("function", ""))

    @property
    def label(self) -> str:
        """Kind, and function where there is one: `binary.add`."""
        return f"{self.kind}.{self.function}" if self.function else self.kind


class Graph:
    """Operations in the order in which they run, and their tensors.

    `inputs` and `outputs` are ids; parameters and buffers are found by role. `gradients` are those
    of trainable parameters, by parameter, once `autodiff` has grown them; `checkpoints` are tensors
    that the program wants stored where others are recomputed.
    """

    def __init__(self) -> None:
        self.tensors: Dict[int, Tensor] = {}
        self.ops: List[Op] = []
        self.inputs: List[int] = []
        self.outputs: List[int] = []
        self.gradients: Dict[int, int] = {}
        self.checkpoints: List[int] = []

    def tensor(
        self,
        shape: Iterable[int],
        element: Element,
        role: Role = Role.ACTIVATION,
        name: str = "",
        trainable: bool = True,
    ) -> Tensor:
        """Add a tensor."""
        id = next(reversed(self.tensors), -1) + 1  # unused tensors may have been deleted
        made = Tensor(id, tuple(int(size) for size in shape), element, role, name, trainable)
        self.tensors[made.id] = made
        return made

    def like(self, tensor: int, role: Role = Role.ACTIVATION, name: str = "") -> Tensor:
        """Add a tensor of the same shape and type."""
        return self.tensor(self.tensors[tensor].shape, self.tensors[tensor].element, role, name)

    def add(
        self,
        kind: str,
        inputs: Iterable[int],
        outputs: Iterable[int],
        attributes: Optional[Mapping[str, Any]] = None,
        **place: Any,
    ) -> Op:
        """Append an operation; `place` are its scope, stage, ipu, phase and forward_of.

        Raises:
            GraphError: it names a tensor that the graph does not have.
        """
        op = Op(len(self.ops), kind, tuple(inputs), tuple(outputs), attributes or {}, **place)
        unknown = [id for id in (*op.inputs, *op.outputs) if id not in self.tensors]
        if unknown:
            raise GraphError(f"op {op.id} ({op.label}): no tensors {unknown}; add them first")
        self.ops.append(op)
        return op

    def copy(self) -> "Graph":
        """A graph that can grow without changing this one; tensors and ops are shared values."""
        made = Graph()
        made.tensors, made.ops = dict(self.tensors), list(self.ops)
        made.inputs, made.outputs = list(self.inputs), list(self.outputs)
        made.gradients = dict(self.gradients)
        made.checkpoints = list(self.checkpoints)
        return made

    def of_role(self, role: Role) -> List[Tensor]:
        """Tensors of one role, in order of creation."""
        return [tensor for tensor in self.tensors.values() if tensor.role is role]

    @property
    def parameters(self) -> List[Tensor]:
        """Trainable and frozen parameters."""
        return self.of_role(Role.PARAMETER)

    @property
    def parameter_elements(self) -> int:
        """Elements of all parameters."""
        return sum(tensor.elements for tensor in self.parameters)

    @property
    def stages(self) -> int:
        """Pipeline stages of the forward pass."""
        return 1 + max((op.stage for op in self.ops), default=0)

    def operands(self, op: Op) -> List[Tensor]:
        """The operation's input tensors."""
        return [self.tensors[id] for id in op.inputs]

    def results(self, op: Op) -> List[Tensor]:
        """The operation's output tensors."""
        return [self.tensors[id] for id in op.outputs]

    def producers(self) -> Dict[int, Op]:
        """The operation that makes each tensor."""
        return {id: op for op in self.ops for id in op.outputs}

    def consumers(self) -> Dict[int, List[Op]]:
        """The operations that read each tensor, in order."""
        found: Dict[int, List[Op]] = defaultdict(list)
        for op in self.ops:
            for id in dict.fromkeys(op.inputs):
                found[id].append(op)
        return found

    def in_phase(self, *phases: Phase) -> Iterator[Op]:
        """Operations of these phases, in order."""
        return (op for op in self.ops if op.phase in phases)

    def moved(self, op: Op, **place: Any) -> Op:
        """The operation at another place, with the same operands."""
        return op.changed(**place)
