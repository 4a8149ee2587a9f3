"""The work that falls on the fullest tile, for many candidate splits at once."""

from dataclasses import dataclass
from math import gcd
from typing import Tuple

from app.ipu_model.cost.convolution.lazy import lazy
from app.ipu_model.cost.convolution.methods import Candidate
from app.ipu_model.cost.convolution.options import DataType
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.workers import Array, ceil_div

__all__ = ["TileWork", "VertexContext", "product"]


_SPLIT_1X1_RELEASE = (2, 1)


@dataclass(frozen=True)
class TileWork:
    """Sizes on one tile: field, batch, grains of groups and channels, kernel. One entry a split."""

    field: Tuple[Array, ...]
    batch: Array
    groups: Array
    ins: Array
    outs: Array
    kernel: Tuple[Array, ...]

    @property
    def pairs(self) -> Array:
        """(Output grain, group grain) pairs, each with its own partials."""
        return self.outs * self.groups

    @property
    def field_elements(self) -> Array:
        """Output positions of one batch item and channel."""
        return product(self.field)

    @property
    def kernel_elements(self) -> Array:
        """Kernel positions."""
        return product(self.kernel)

    def take(self, index: Array) -> "TileWork":
        """The splits at `index`."""
        return TileWork(
            tuple(size[index] for size in self.field),
            self.batch[index],
            self.groups[index],
            self.ins[index],
            self.outs[index],
            tuple(size[index] for size in self.kernel),
        )


@dataclass(frozen=True)
class VertexContext:
    """What a vertex formula needs besides the sizes."""

    params: ConvParams
    candidate: Candidate
    input_type: DataType
    output_type: DataType
    release: Tuple[int, int]
    workers: int
    coefficient_bytes_per_cycle: int

    @property
    def float_partials(self) -> int:
        """1 for float partials, 0 for half: the formulas use it as a number."""
        return int(self.candidate.partial_type is DataType.FLOAT)

    @property
    def float_input(self) -> bool:
        """Float activations and weights."""
        return self.input_type is DataType.FLOAT

    @lazy
    def static_1x1(self) -> bool:
        """Whether some split may use the 1x1 form of the AMP vertex.

        Source: PopLibs canUseConvPartial1x1Vertex, which early releases ask about the convolution
        before it is split: one input row, and every kernel position reaches every output.
        """
        params = self.params
        if (
            self.candidate.weight_height > 1
            or params.batch > 1
            or params.input_dilation != params.stride
            or params.kernel[-1] > 1  # the other kernel dims may be split
        ):
            return False
        if self.release >= _SPLIT_1X1_RELEASE:
            return True
        return all(map(params.always_written, range(params.dims)))

    def rows_and_length(self, work: TileWork) -> Tuple[Array, Array]:
        """Output rows (over the batch and outer dims) and row length that one pass visits."""
        rows = work.batch
        for dim, size in enumerate(work.field):
            dilation, stride = self.params.input_dilation[dim], self.params.stride[dim]
            active = ceil_div(size, dilation // gcd(dilation, stride))
            if dim == len(work.field) - 1:
                return rows, active
            rows = rows * active
        raise AssertionError("a convolution has at least two spatial dims")


def product(sizes: Tuple[Array, ...]) -> Array:
    """Elementwise product of some arrays."""
    result = sizes[0]
    for size in sizes[1:]:
        result = result * size
    return result
