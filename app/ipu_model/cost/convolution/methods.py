"""Vertex methods and their grains (poplibs lib/poplin/ConvVertexType.cpp)."""

from dataclasses import dataclass
from enum import Enum
from typing import Iterator, Sequence, Tuple

from app.ipu_model.cost.convolution.options import ConvOptions, DataType
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["Candidate", "Method", "Rank", "candidates"]

WEIGHT_BYTES_PER_UNIT = 32
SLIC_WINDOW = 4


class Method(Enum):
    """The five kinds of convolution vertex."""

    AMP = "amp"
    SLIC = "slic"
    HMAC = "hmac"
    VMAC = "vmac"
    OUTER_PRODUCT = "outer_product"


@dataclass(frozen=True)
class Candidate:
    """A method with its grain: groups, input and output channels processed together.

    `units` counts AMP units, or conv chains for SLIC; `weight_height` is the number of kernel rows
    folded into one AMP pass.
    """

    method: Method
    group_grain: int
    in_grain: int
    out_grain: int
    partial_type: DataType
    units: int = 0
    weight_height: int = 1

    def padding(self, params: ConvParams) -> float:
        """Work on channels and groups padded to the grain, for each useful one."""
        padded, useful = 1, params.groups * params.in_channels * params.out_channels
        for size, grain in (
            (params.groups, self.group_grain),
            (params.in_channels, self.in_grain),
            (params.out_channels, self.out_grain),
        ):
            padded *= -(-size // grain) * grain
        return padded / useful

    def declared_rate(self, input_type: DataType) -> int:
        """MAC/cycle/tile by which the source orders candidates; it understates SLIC."""
        width = input_type.vector_width
        if self.method is Method.AMP:
            return width * self.units
        if self.method is Method.SLIC:
            return min(width, self.in_grain) * SLIC_WINDOW * 2
        return width

    def rate_bound(self, input_type: DataType, release: Tuple[int, int]) -> float:
        """MAC/cycle/tile that no split of this candidate exceeds, padding counted as work."""
        if self.method is Method.AMP:
            return 4.0 * self.units if input_type is DataType.HALF else float(self.units)
        if self.method is Method.SLIC:
            # The published formula leaves the first sub-kernel out of the factor for wide groups.
            passes = 1 if self.units == 4 else 2
            return 4.0 * self.group_grain * self.in_grain * self.out_grain / passes
        if self.method is Method.VMAC:
            return 4.0
        if self.method is Method.OUTER_PRODUCT:
            return 1.0
        if self.partial_type is DataType.FLOAT:
            return self.in_grain / (8 + self.in_grain / 4)
        if release < (3, 3):
            # The estimator of these releases leaves the products of further pieces uncounted.
            return 2 * self.in_grain / 7
        return 2 * self.in_grain / (17 + self.in_grain / 4)


Rank = Tuple[float, float, int, int, int]


def candidates(
    params: ConvParams,
    options: ConvOptions,
    target: PlannerTarget,
    methods: Sequence[Method] = tuple(Method),
) -> Iterator[Tuple[Rank, Candidate]]:
    """Candidates of some methods for a transformed convolution, each with its rank in the source.

    The source tries the best declared rate first, then the least padding, then narrow partials.
    """
    for method in methods:
        place = list(Method).index(method)
        for position, candidate in enumerate(dict.fromkeys(_of(method, params, options, target))):
            padded = _round_up(params.in_channels, candidate.in_grain)
            padded *= _round_up(params.out_channels, candidate.out_grain)
            useful = params.in_channels * params.out_channels / padded
            rate = candidate.declared_rate(options.data_type) * useful
            yield (-rate, -useful, candidate.partial_type.bytes, place, position), candidate


def _of(
    method: Method, params: ConvParams, options: ConvOptions, target: PlannerTarget
) -> Iterator[Candidate]:
    if method is Method.AMP:
        return _amp(params, options, target)
    if method is Method.SLIC:
        return _slic(options, target)
    if method is Method.HMAC:
        return _hmac(params, options)
    return _vmac(options) if method is Method.VMAC else _outer_product(params, options)


def _amp(params: ConvParams, options: ConvOptions, target: PlannerTarget) -> Iterator[Candidate]:
    partials, output = options.partials_type, options.result_type
    pointwise = all(size == 1 for size in params.kernel)
    per_unit = WEIGHT_BYTES_PER_UNIT // options.data_type.bytes
    if output.bytes < partials.bytes and pointwise and params.in_channels <= per_unit:
        # No reduction follows, so the vertex may write the narrower output type at once.
        for candidate in _amp_grains(options.data_type, output, target):
            if _round_up(params.in_channels, candidate.in_grain) == per_unit:
                yield candidate
    yield from _amp_grains(options.data_type, partials, target)


def _amp_grains(
    data_type: DataType, partials: DataType, target: PlannerTarget
) -> Iterator[Candidate]:
    float_input = data_type is DataType.FLOAT
    if float_input:
        partials = DataType.FLOAT
    available = target.amp_units(float_input, partials is DataType.FLOAT)
    if available == 0:
        partials = DataType.FLOAT
        available = target.amp_units(float_input, True)
    if available == 0:
        return
    per_unit = WEIGHT_BYTES_PER_UNIT // data_type.bytes
    narrow = 8 // data_type.bytes
    for units in (available, 8) if available > 8 else (available,):
        share = per_unit * units // available
        out_grains = sorted({units, share} & {available, per_unit, 8}, reverse=True)
        for in_grain in (per_unit, per_unit // 2, per_unit // 4):
            if in_grain < narrow:
                continue
            used = per_unit if in_grain == per_unit else share
            if used % in_grain:
                continue
            for out_grain in out_grains:
                if out_grain % units == 0:
                    yield Candidate(
                        Method.AMP, 1, in_grain, out_grain, partials, units, used // in_grain
                    )


def _slic(options: ConvOptions, target: PlannerTarget) -> Iterator[Candidate]:
    if options.data_type is not DataType.HALF or options.pass_.fully_connected:
        return
    partials = options.partials_type
    wide = partials is DataType.HALF and target.amp_units(False, False) == 16
    grains = [(1, 4), (2, 2), (4, 1)]
    if wide and options.release >= (2, 4):
        grains += [(8, 1), (16, 1)]
    for chains in (4, 2) if wide else (2,):
        for groups, channels in grains:
            yield Candidate(Method.SLIC, groups, channels, channels, partials, chains)


def _hmac(params: ConvParams, options: ConvOptions) -> Iterator[Candidate]:
    step = 2 if options.data_type is DataType.HALF else 1
    out_grain = 1 if options.partials_type is DataType.FLOAT else 2
    rounded = _round_up(params.in_channels, step)
    grain = step
    while True:
        yield Candidate(Method.HMAC, 1, grain, out_grain, options.partials_type)
        blocks = -(-rounded // grain)
        if blocks == 1:
            return
        # The next grain that saves a block: all between only pad more.
        grain = _round_up(-(-rounded // (blocks - 1)), step)


def _vmac(options: ConvOptions) -> Iterator[Candidate]:
    half_partials = options.partials_type is DataType.HALF
    if options.data_type is not DataType.HALF or (half_partials and options.release < (2, 1)):
        return
    yield Candidate(Method.VMAC, 4, 1, 1, options.partials_type)
    if half_partials and options.release >= (2, 4):
        for groups in (8, 16):
            yield Candidate(Method.VMAC, groups, 1, 1, options.partials_type)


def _outer_product(params: ConvParams, options: ConvOptions) -> Iterator[Candidate]:
    pointwise = all(size == 1 for size in params.kernel)
    narrower = options.data_type.bytes < options.partials_type.bytes
    if narrower and not (params.in_channels == 1 and pointwise):
        return
    width = options.data_type.vector_width
    yield Candidate(Method.OUTER_PRODUCT, 1, 1, width, options.data_type)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
