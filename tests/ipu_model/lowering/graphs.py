"""Small forward graphs, and what tests ask of a lowered one."""

from collections import Counter
from typing import Any, Iterable, List, Sequence, Tuple

from app.ipu_model.graph import Element, Graph, Op, Phase, Role

BATCH, CHANNELS, SIZE = 4, 16, 8
SHAPE = (BATCH, CHANNELS, SIZE, SIZE)
CONV = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
MOVES = ("inter_ipu_copy", "stash", "restore", "host_load", "host_store")


class Builder:
    """Writes a forward graph of half tensors of one shape."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.place = {"scope": "", "stage": 0, "ipu": 0}

    def at(self, stage: int, scope: str = "") -> None:
        """What follows runs on this stage, and on the IPU of the same number."""
        self.place = {"scope": scope, "stage": stage, "ipu": stage}

    def input(self) -> int:
        made = self.graph.tensor(SHAPE, Element.HALF, Role.INPUT, "x").id
        self.graph.inputs.append(made)
        return made

    def parameter(self, name: str, shape: Sequence[int] = (CHANNELS, CHANNELS, 1, 1)) -> int:
        return self.graph.tensor(shape, Element.HALF, Role.PARAMETER, name).id

    def op(self, kind: str, *inputs: int, shape: Sequence[int] = SHAPE, **attributes: Any) -> int:
        made = self.graph.tensor(shape, Element.HALF).id
        self.graph.add(kind, inputs, (made,), attributes, **self.place)
        return made

    def conv(self, x: int, name: str) -> int:
        return self.op("conv", x, self.parameter(name), **CONV)

    def silu(self, x: int) -> int:
        return self.op("unary", x, function="silu")

    def norm(self, x: int, name: str) -> int:
        y = self.graph.tensor(SHAPE, Element.HALF).id
        statistics = [self.graph.tensor((BATCH, 4), Element.FLOAT).id for _ in range(2)]
        affine = [self.parameter(f"{name}.{part}", (CHANNELS,)) for part in ("weight", "bias")]
        attributes = {"groups": 4, "epsilon": 1e-5, "affine": True}
        outputs = (y, *statistics)
        self.graph.add("group_norm", (x, *affine), outputs, attributes, **self.place)
        return y

    def add(self, a: int, b: int) -> int:
        return self.op("binary", a, b, function="add")

    def loss(self, x: int) -> Graph:
        mean = self.op("reduce", x, shape=(), function="mean", axes=(0, 1, 2, 3), keepdim=False)
        self.graph.outputs = [self.op("identity_loss", mean, shape=(), reduction="none")]
        return self.graph


def chain(blocks: int, cuts: Sequence[int] = ()) -> Graph:
    """Blocks of convolution, norm and activation, and a loss; a stage begins at every cut."""
    build = Builder()
    x = build.input()
    for block in range(blocks):
        build.at(sum(block >= cut for cut in cuts), f"block{block}")
        x = build.silu(build.norm(build.conv(x, f"conv{block}"), f"norm{block}"))
    return build.loss(x)


def labels(graph: Graph, *phases: Phase) -> List[str]:
    return [op.label for op in graph.in_phase(*phases)]


def of_kind(graph: Graph, *kinds: str) -> List[Op]:
    return [op for op in graph.ops if op.kind in kinds]


def work(graph: Graph, phases: Iterable[Phase]) -> "Counter[Tuple[Any, ...]]":
    """How often each operation of these shapes runs, apart from what only moves tensors."""
    return Counter(
        (
            op.phase,
            op.label,
            tuple(tensor.shape for tensor in graph.operands(op)),
            tuple(tensor.shape for tensor in graph.results(op)),
        )
        for op in graph.in_phase(*phases)
        if op.kind not in (*MOVES, "view")
    )
