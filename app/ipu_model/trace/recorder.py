"""Records what torch runs as an op graph."""

import warnings
from functools import lru_cache
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from app.ipu_model.graph import Graph, Role
from app.ipu_model.missing import MissingRule
from app.ipu_model.trace.call import FILE, Call, Emitter, Results, element_of
from app.ipu_model.trace.kinds import COMPOSITIONS, RULES, VIEWS, decomposition, is_composite
from app.ipu_model.trace.nesting import mapped, tensors
from app.ipu_model.trace.places import Place
from app.ipu_model.trace.pruning import pruned

__all__ = ["OpRecorder"]


class OpRecorder(TorchDispatchMode):
    """Appends every torch operation that runs while it is active to a graph.

    The tensors may be real, fake or meta; they are kept alive by nobody here. The graph has no
    memory: an operation in place makes a new graph tensor, which stands for the torch tensor, and
    for those that share its memory, from then on.

    Args:
        on_missing: "raise" or "warn": what happens at an operation without translation. With
            "warn" it becomes one of kind `unknown`.

    Attributes:
        scope, stage, ipu: where the program runs now; set by whoever runs it.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler, seconds of work, at the first operation."""
        return False

    def __init__(self, on_missing: str = "raise") -> None:
        super().__init__()
        if on_missing not in ("raise", "warn"):
            raise ValueError(f"on_missing: must be raise or warn, got {on_missing}")
        self.scope, self.stage, self.ipu = "", 0, 0
        self._warns = on_missing == "warn"
        self._graph = Graph()
        self._emitter = Emitter(self._graph)
        self._places: Any = WeakTensorKeyDictionary()
        self._known: List[Tuple[Place, int]] = []
        self._losses: List[int] = []

    def know(self, tensor: torch.Tensor, role: Role, name: str = "") -> int:
        """Register an input, parameter or buffer before it is used; returns its graph id.

        Raises:
            GraphError: the device has no such type.
        """
        trainable = tensor.requires_grad or role is not Role.PARAMETER
        shape, type = tuple(tensor.shape), element_of(tensor.dtype)
        id = self._graph.tensor(shape, type, role, name, trainable).id
        self._places[tensor] = place = Place(id)
        if role is Role.INPUT:
            self._graph.inputs.append(id)
        elif role is Role.CONSTANT:
            self._emitter.constants[id] = None
        else:
            self._known.append((place, id))
        if role is Role.PARAMETER:
            self._emitter.from_parameters[id] = None
        return id

    def id_of(self, tensor: torch.Tensor) -> int:
        """Graph id of what the tensor holds now; one never met before is a constant."""
        return self._place(tensor).read()

    def checkpoint(self, tensor: torch.Tensor) -> None:
        """The program wants the tensor stored where others are recomputed."""
        self._graph.checkpoints.append(self.id_of(tensor))

    def mark_loss(self, tensor: torch.Tensor) -> None:
        """Back-propagation may start at the tensor; the last one marked counts."""
        self._losses.append(self.id_of(tensor))

    def is_constant(self, tensor: torch.Tensor) -> bool:
        """Whether what the tensor holds is known before the program runs."""
        return self.id_of(tensor) in self._emitter.constants

    def finish(self, outputs: Sequence[torch.Tensor]) -> Graph:
        """The graph of what these results and the buffers written to need.

        Constants are folded, and the loss that was marked is made by an `identity_loss`.
        """
        written = [place.read() for place, before in self._known if place.read() != before]
        self._graph.outputs = [self.id_of(tensor) for tensor in outputs]
        return pruned(self._graph, written, self._emitter.constants, self._losses)

    def compute(self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the operation."""
        return func(*args, **kwargs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        if is_composite(func, _signature(func).name):
            with self:
                return func.decompose(*args, **kwargs)
        result = self.compute(func, args, kwargs)
        self._emitter.scope, self._emitter.stage = self.scope, self.stage
        self._emitter.ipu = self.ipu
        self._record(func, args, kwargs, result)
        return result

    def _place(self, tensor: torch.Tensor) -> Place:
        place: Optional[Place] = self._places.get(tensor)
        if place is None:
            self.know(tensor, Role.CONSTANT)
            place = self._places[tensor]
        return place

    def _record(
        self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        signature = _signature(func)
        arguments = {**signature.defaults, **dict(zip(signature.names, args)), **kwargs}
        results = list(tensors(result))
        if not results:
            return  # the host reads a value or asks for a size: nothing the device computes
        call = Call(self._emitter, signature.name, arguments, results, self.id_of)
        if signature.name in VIEWS:
            self._note_views(call)
            return
        ids = self._translate(func, call)
        targets = [arguments[name] for name in signature.written] or results
        for tensor, id in zip(targets, [ids] if isinstance(ids, int) else ids):
            if id is None:
                continue
            if signature.written:
                self._place(tensor).write(id)
            else:
                self._places[tensor] = Place(id)

    def _note_views(self, call: Call) -> None:
        whole = self._place(call.get("self", "input"))
        for tensor, view in zip(call.results, VIEWS[call.name](call)):
            self._places[tensor] = Place(view.look(whole.read()), whole, view)

    def _translate(self, func: Any, call: Call) -> Results:
        if call.name in RULES:
            return RULES[call.name](call)
        program = COMPOSITIONS.get(call.name) or decomposition(func)
        if program is not None:
            return self._compose(program, call)
        missing = MissingRule(str(func), self.scope or "<root>", FILE)
        if not self._warns:
            raise missing
        warnings.warn(str(missing), stacklevel=2)
        operands = [self.id_of(tensor) for tensor in tensors(list(call.arguments.values()))]
        made = [(tuple(tensor.shape), element_of(tensor.dtype)) for tensor in call.results]
        return self._emitter.emit_all("unknown", operands, made, name=str(func))

    def _compose(self, program: Callable[..., Any], call: Call) -> Results:
        """Record an operation as a program of others, run on tensors without data."""

        def twin(tensor: torch.Tensor) -> torch.Tensor:
            made = torch.empty_like(tensor, device="meta")
            self._places[made] = Place(self.id_of(tensor))
            return made

        arguments = {name: mapped(value, twin) for name, value in call.arguments.items()}
        with torch.no_grad(), self:
            made = list(tensors(program(**arguments)))
            return [self.id_of(tensor) for tensor in made]


class _Signature(NamedTuple):
    name: str
    names: Tuple[str, ...]
    defaults: Dict[str, Any]
    written: Tuple[str, ...]


@lru_cache(maxsize=None)
def _signature(func: Any) -> _Signature:
    """What an operation's schema says: arguments, and those that its results replace."""
    schema = func._schema
    replaces = any(r.alias_info is not None and r.alias_info.is_write for r in schema.returns)
    written = [
        a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write
    ]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    name: str = func.overloadpacket.__name__
    in_place = replaces and name.endswith("_") and not name.endswith("__")
    return _Signature(
        name[:-1] if in_place else name,
        tuple(argument.name for argument in schema.arguments),
        defaults,
        tuple(written) if replaces else (),
    )
