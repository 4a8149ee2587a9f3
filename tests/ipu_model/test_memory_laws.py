"""Laws of memory over generated graphs, and the same sums by brute force."""

from dataclasses import replace
from typing import List, Tuple

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.cost.cost import Code, Cost
from app.ipu_model.graph import Phase, Role
from app.ipu_model.memory import IpuMemory
from app.ipu_model.memory.mapping import spread
from tests.ipu_model.memory_graphs import PLAIN, Sketch, constants, memories

TILES = 5
PHASES = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
# kind, two operands by how far back they were made, elements per sample, phase, temporaries, IPU
Step = Tuple[str, int, int, int, int, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["binary", "view", "in_place", "parameter"]),
        st.integers(1, 6),
        st.integers(1, 6),
        st.integers(1, 700),
        st.integers(0, 2),
        st.integers(0, 300),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=14,
)
CONSTANTS = constants(scale=1.29, gaps=0.03, control=55, unshared=0.6, executable=0.7)


def drawn(steps: List[Step], batch: int = 1) -> Sketch:
    """A graph with one operation for each step; activations are `batch` samples large."""
    graph = Sketch()
    made = [graph.load(30 * batch)]
    for kind, first, second, elements, phase, _, ipu in sorted(steps, key=lambda step: step[4]):
        operands = [made[-min(back, len(made))] for back in (first, second)]
        if kind == "parameter":
            operands[1] = graph.parameter(elements, 2)
        name = "view" if kind == "view" else "binary"
        place = {"phase": PHASES[phase], "ipu": ipu, "scope": f"blocks.{first}"}
        attributes = {"in_place": kind == "in_place"}
        made.append(graph.run(operands, (elements * batch,), name, attributes, **place))
    return graph


def measured(steps: List[Step], batch: int = 1, tiles: int = TILES) -> Tuple[IpuMemory, ...]:
    graph = drawn(steps, batch)
    ordered = sorted(steps, key=lambda step: step[4])
    costs = {
        op.id: Cost(temporary_tile_bytes=step[5] + 0.25, code=(Code((step[3],), 40.0),))
        for op, step in zip(graph.ops[1:], ordered)
    }
    return memories(graph, PLAIN, tiles, costs, CONSTANTS)


@given(STEPS)
def test_terms_add_up_to_the_peak(steps: List[Step]) -> None:
    for memory in measured(steps):
        assert sum(term.tile_bytes for term in memory.terms) == memory.peak_tile_bytes
        always = sum(term.tile_bytes for term in memory.terms if term.always_live)
        assert always == memory.always_live_tile_bytes
        sizes = [term.tile_bytes for term in memory.terms]
        assert sizes == sorted(sizes, reverse=True)


@given(STEPS)
def test_the_fullest_tile_and_moment_make_the_peak(steps: List[Step]) -> None:
    for memory in measured(steps):
        live = [moment.live_tile_bytes for moment in memory.timeline]
        assert max(live, default=0) == memory.not_always_live_tile_bytes
        assert memory.peak_tile_bytes == max(memory.tile_peak_bytes)
        assert memory.peak_tile_bytes == memory.tile_peak_bytes[memory.tile]
        assert memory.always_live_tile_bytes == memory.tile_always_live_bytes[memory.tile]
        held = zip(memory.tile_always_live_bytes, memory.tile_peak_bytes)
        assert all(always <= peak for always, peak in held)
        for moment in memory.timeline:
            assert moment.temporary_tile_bytes <= moment.live_tile_bytes


@given(steps=STEPS, batch=st.integers(1, 6))
def test_a_larger_micro_batch_needs_no_less_memory(steps: List[Step], batch: int) -> None:
    for small, large in zip(measured(steps, batch), measured(steps, batch + 1)):
        assert small.peak_tile_bytes <= large.peak_tile_bytes
        pairs = zip(small.tile_peak_bytes, large.tile_peak_bytes)
        assert all(before <= after for before, after in pairs)


@given(STEPS)
def test_every_byte_of_the_parameters_that_an_ipu_reads_is_on_its_tiles(steps: List[Step]) -> None:
    graph = drawn(steps)
    viewed = {id: op.inputs[0] for op in graph.ops if op.kind == "view" for id in op.outputs}
    for memory in memories(graph, PLAIN, TILES):
        reads = [op for op in graph.ops if op.ipu == memory.ipu and op.kind != "view"]
        read = {graph.tensors[viewed.get(id, id)] for op in reads for id in op.inputs}
        expected = sum(tensor.bytes for tensor in read if tensor.role is Role.PARAMETER)
        assert memory.weights_bytes == expected
        assert sum(memory.tile_always_live_bytes) == expected


@settings(max_examples=60)
@given(STEPS)
def test_no_tile_and_no_moment_is_left_out(steps: List[Step]) -> None:
    """The same sums, tensor by tensor and tile by tile, on a single IPU."""
    steps = [(*step[:-1], 0) for step in steps]
    graph = drawn(steps)
    (memory,) = memories(graph, PLAIN, TILES)
    roots = {id: id for id in graph.tensors}
    touched: dict[int, list[int]] = {}
    for position, op in enumerate(graph.ops):
        if op.kind == "view" or op.attributes.get("in_place"):
            roots[op.outputs[0]] = roots[op.inputs[0]]
        if op.kind != "view":
            for id in (*op.inputs, *op.outputs):
                touched.setdefault(roots[id], []).append(position)
    expected = list(memory.tile_always_live_bytes)
    for tile in range(TILES):
        live = [0] * len(graph.ops)
        for id, positions in touched.items():
            if graph.tensors[id].role is not Role.PARAMETER:
                for position in range(min(positions), max(positions) + 1):
                    live[position] += spread(graph.tensors[id].bytes, TILES).on_tile(tile)
        expected[tile] += max(live)
    assert memory.tile_peak_bytes == tuple(expected)


@given(STEPS)
def test_what_is_held_off_chip_does_not_always_live(steps: List[Step]) -> None:
    graph = drawn(steps)
    off_chip = replace(PLAIN, weights_off_chip=True)
    for memory in memories(graph, off_chip, TILES):
        assert memory.always_live_tile_bytes == 0
