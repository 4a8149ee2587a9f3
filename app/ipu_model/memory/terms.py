"""The fullest tile explained: contributions that add up to its peak, byte for byte."""

from typing import Dict, Iterable, List, Mapping, Tuple

import numpy as np

from app.ipu_model.graph import Op, Phase
from app.ipu_model.memory.mapping import Ints
from app.ipu_model.memory.result import Term

__all__ = ["group_name", "largest_first", "lasting_terms", "passing_terms"]

GAPS = "gaps between variables"
_NAMED_GROUPS = 12
_MADE_IN = {
    Phase.FORWARD: "activations of",
    Phase.RECOMPUTE: "recomputed activations of",
    Phase.BACKWARD: "gradients of",
    Phase.UPDATE: "results of the update of",
}
_MADE_BY = {
    "host_load": "inputs from the host",
    "inter_ipu_copy": "tensors from other IPUs",
    "restore": "restored from stashes",
}


def group_name(producer: Op) -> str:
    """How a report calls the tensors of this operation and of those around it.

    A group is what the block around a layer makes in a phase: layers alone would be too many.
    """
    if producer.kind in _MADE_BY:
        return _MADE_BY[producer.kind]
    block = producer.scope.rpartition(".")[0] or producer.scope
    return f"{_MADE_IN[producer.phase]} {block or 'the network'}"


def lasting_terms(always_live: Mapping[str, Ints], tile: int) -> List[Term]:
    """What always lives on one tile; `always_live` holds bytes of every tile by name."""
    return [Term(name, int(tile_bytes[tile]), True) for name, tile_bytes in always_live.items()]


def passing_terms(
    groups: Mapping[str, int], data_tile_bytes: int, peak_op: Op, temporary: int, gaps: int
) -> List[Term]:
    """What lives on one tile while `peak_op` runs.

    `groups` are unpadded bytes by name; `data_tile_bytes` is what they take with padding, which
    is shared out so that the terms add up to it.
    """
    named = _scaled(_largest(groups), data_tile_bytes)
    label = f"temporaries of {peak_op.label} ({peak_op.scope or 'the network'})"
    found = {**named, label: temporary, GAPS: gaps}
    return [Term(name, tile_bytes, False) for name, tile_bytes in found.items()]


def largest_first(terms: Iterable[Term]) -> Tuple[Term, ...]:
    """Terms that are more than nothing, in the order in which a reader wants them."""
    return tuple(sorted((each for each in terms if each.tile_bytes), key=lambda t: -t.tile_bytes))


def _largest(groups: Mapping[str, int]) -> Dict[str, int]:
    """The largest groups, and the sum of the others."""
    ranked = sorted(groups.items(), key=lambda item: -item[1])
    kept = dict(ranked[:_NAMED_GROUPS])
    others = sum(tile_bytes for _, tile_bytes in ranked[_NAMED_GROUPS:])
    return {**kept, "other activations and gradients": others} if others else kept


def _scaled(groups: Mapping[str, int], total: int) -> Dict[str, int]:
    """Groups in proportion, rounded so that their sum is `total`."""
    ends = np.cumsum(list(groups.values()), dtype=np.float64)
    if not len(ends) or not ends[-1]:
        return {}
    rounded = np.rint(ends / ends[-1] * total).astype(np.int64)
    return dict(zip(groups, np.diff(rounded, prepend=0).tolist()))
