"""What a planner may change in a network: where a stage can begin, and which results it can store.

Both are named by modules, because that is how a PopTorch program says them: `BeginBlock` begins a
stage when a module is called, `recomputationCheckpoint` stores what a module returns.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Set, Tuple

from app.ipu_model.autodiff import wanted_tensors
from app.ipu_model.graph import Graph, Op
from app.ipu_model.modules import Span, module_results, module_spans

__all__ = ["Checkpoint", "CutPoint", "Network", "Traced"]

_LAYERS = ("conv", "matmul")


@dataclass(frozen=True)
class CutPoint:
    """A stage can begin at the operation of this position: `module` is called there."""

    position: int
    module: str


@dataclass(frozen=True)
class Checkpoint:
    """What `module` returns can be stored: the tensor, and the position of its operation.

    `joint`: it is all that the rest of the network reads of what came before, so that storing it
    cuts recomputation in two; such are the results of residual blocks. `unit`: a module that
    returns it is a member of a sequence, as the units of a network are.
    """

    module: str
    tensor: int
    position: int
    joint: bool
    unit: bool = False


class Traced:
    """The forward graph of one micro-batch, uncut, with what is known of it.

    `graph` has one stage. `cuts` are in order and begin with the start of the network, whose
    module is empty. `starts` are the positions where modules begin, `results` what they
    return.
    `layers` counts convolutions and linear layers before each position.
    """

    def __init__(self, graph: Graph, prefix: str) -> None:
        self.graph = graph
        self.wanted: Set[int] = wanted_tensors(graph)
        self.makers: Dict[int, int] = {
            id: position for position, op in enumerate(graph.ops) for id in op.outputs
        }
        self.first_read: Dict[int, int] = {}
        self.last_read: Dict[int, int] = {}
        for position, op in enumerate(graph.ops):
            for id in op.inputs:
                self.first_read.setdefault(id, position)
                self.last_read[id] = position
        spans = {name: span for name, span in module_spans(graph, prefix).items() if span.whole}
        self.results = module_results(graph, spans, prefix)
        self.starts = {name: span.first for name, span in spans.items()}
        self.layers = _layers_before(graph.ops)
        self.cuts = _cut_points(spans)
        self.crossing = self._crossing()
        self.checkpoints = self._checkpoints(spans)

    def __len__(self) -> int:
        return len(self.graph.ops)

    def carried(self, position: int) -> Tuple[int, ...]:
        """Tensors made before a position and read from there on."""
        return self.crossing.get(position, ())

    def _crossing(self) -> Dict[int, Tuple[int, ...]]:
        """The tensors that cross each cut point."""
        found: Dict[int, Tuple[int, ...]] = {}
        made = sorted(self.makers.items(), key=lambda item: item[1])
        for cut in self.cuts:
            alive = (id for id, at in made if at < cut.position <= self.last_read.get(id, -1))
            found[cut.position] = tuple(alive)
        return found

    def _checkpoints(self, spans: Mapping[str, Span]) -> Tuple[Checkpoint, ...]:
        """Every tensor once, under the name of the outermost module that returns it."""
        joints = {ids[0] for ids in self._frontiers().values() if len(ids) == 1}
        found: Dict[int, Checkpoint] = {}
        units = {id for name, id in self.results.items() if name.rsplit(".", 1)[-1].isdigit()}
        for name, span in spans.items():
            op = self.graph.ops[span.last]
            if op.kind == "view" or not op.outputs or op.outputs[0] not in self.wanted:
                continue
            tensor = op.outputs[0]
            if tensor in self.last_read and self.last_read[tensor] > span.last:
                joint, unit = tensor in joints, tensor in units
                found.setdefault(tensor, Checkpoint(name, tensor, span.last, joint, unit))
        return tuple(sorted(found.values(), key=lambda each: each.position))

    def _frontiers(self) -> Dict[int, List[int]]:
        """After each operation: tensors that are still to be read, parameters' own left out."""
        found: Dict[int, List[int]] = {}
        alive: Dict[int, None] = {}
        for position, op in enumerate(self.graph.ops):
            for id in op.inputs:
                if id in alive and self.last_read[id] == position:
                    del alive[id]
            for id in op.outputs:
                if self.last_read.get(id, -1) > position and id in self.wanted:
                    alive[id] = None
            found[position] = list(alive)
        return found


class Network:
    """A network as the planner sees it: its trace at any micro-batch.

    trace: the forward graph of a micro-batch, uncut; may raise ValueError for one that the network
    cannot run. prefix: what stands before the names of the network's modules in the trace.
    """

    def __init__(self, trace: Callable[[int], Graph], prefix: str = "net.") -> None:
        self._trace, self._prefix = trace, prefix
        self._known: Dict[int, Traced] = {}

    def at(self, micro_batch: int) -> Traced:
        """The trace at a micro-batch, made once."""
        if micro_batch not in self._known:
            self._known[micro_batch] = Traced(self._trace(micro_batch), self._prefix)
        return self._known[micro_batch]


def _layers_before(ops: List[Op]) -> List[int]:
    count = [0]
    for op in ops:
        layer = op.kind in _LAYERS and (op.kind == "conv" or bool(op.attributes.get("linear")))
        count.append(count[-1] + layer)
    return count


def _cut_points(spans: Mapping[str, Span]) -> Tuple[CutPoint, ...]:
    """Where modules begin, under the name of the outermost; modules are in order of beginning."""
    found: Dict[int, CutPoint] = {0: CutPoint(0, "")}
    for name, span in spans.items():
        found.setdefault(span.first, CutPoint(span.first, name))
    return tuple(found[position] for position in sorted(found))
