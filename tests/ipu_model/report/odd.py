"""Simulations with odd values, for laws that hold for all of them."""

from dataclasses import replace

from hypothesis import strategies as st

from app.ipu_model.cost.cost import Cost
from app.ipu_model.memory import Moment, Term
from app.ipu_model.pipeline import Slot
from app.ipu_model.simulation import Misfit, OpCost, Simulation
from tests.ipu_model.report.fixture import tiny

_cycles = st.one_of(st.just(0.0), st.floats(1e-3, 1e12))
_bytes = st.integers(0, 2**31)
_words = st.text(max_size=60)

_costs = st.builds(
    Cost,
    compute_cycles=_cycles,
    exchange_cycles=_cycles,
    sync_cycles=_cycles,
    flops=st.integers(0, 10**15),
    temporary_tile_bytes=st.floats(0, 1e6),
)
_ops = st.builds(
    OpCost,
    op=st.integers(0, 9),
    label=_words,
    kind=_words,
    scope=_words,
    stage=st.just(0),
    ipu=st.integers(0, 3),
    phase=st.sampled_from(["forward", "recompute", "backward", "update", "other <b>"]),
    result_shape=st.tuples(st.integers(0, 9)),
    cost=_costs,
    repeats=st.integers(1, 2000),
)
_terms = st.lists(st.builds(Term, _words, _bytes, st.booleans()), max_size=20).map(tuple)
_moments = st.lists(
    st.builds(Moment, st.integers(0, 9), _words, _words, _words, _bytes, st.integers(0, 1000)),
    max_size=5,
).map(tuple)
_misfits = st.none() | st.builds(
    Misfit, st.integers(0, 9), st.integers(-1, 1471), _bytes, _bytes, _terms, st.just(())
)


@st.composite
def _slots(draw: st.DrawFn) -> Slot:
    start = draw(_cycles)
    what = draw(st.sampled_from(["forward", "host", "something else"]))
    return Slot(
        draw(st.integers(0, 3)), 0, what, draw(st.integers(-1, 9)), start, start + draw(_cycles)
    )


@st.composite
def simulations(draw: st.DrawFn) -> Simulation:
    """One IPU, a few operations, anything in every field."""
    plain = tiny()
    (result,) = plain.per_ipu
    memory = replace(
        result.memory,
        peak_tile_bytes=draw(_bytes),
        always_live_tile_bytes=draw(_bytes),
        terms=draw(_terms),
        timeline=draw(_moments),
    )
    return replace(
        plain,
        name=draw(_words),
        per_ipu=(replace(result, compute_cycles=draw(_cycles), memory=memory),),
        timeline=replace(
            plain.timeline,
            cycles=draw(_cycles),
            slots=tuple(draw(st.lists(_slots(), max_size=5))),
        ),
        throughput_samples_per_s=draw(st.sampled_from([0.0, 1e9, float("inf")])),
        ops=tuple(draw(st.lists(_ops, max_size=5))),
        misfit=draw(_misfits),
        region0_bytes=draw(st.sampled_from([0, 212992])),
    )
