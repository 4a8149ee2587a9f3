"""Constants of the IPU Model that no public source fixes, with range, evidence and error.

Each stands here once, named, so that nothing else hard-codes it. `python -m benchmarks.conv_layers
--fit` prints the values of the convolution constants; they are then written here. The published
rows are Poplar's own IPU Model of SDK 2.0.0, with float partials: they do not say how far a scale
carries to half partials or to later releases.
"""

from dataclasses import dataclass
from typing import Dict, Optional

__all__ = [
    "CONV_CALIBRATIONS",
    "SYSTEM_CALIBRATION",
    "Calibrated",
    "Calibration",
    "ConvCalibration",
    "MemoryCalibration",
    "OpCalibration",
    "SystemCalibration",
    "calibration",
    "conv_calibration",
]


@dataclass(frozen=True)
class Calibrated:
    """One fitted constant: value, plausible range, rows it was fitted on, error on rows left out.

    `hold_out_error` is the mean absolute relative error of the predictions that use the constant,
    each row predicted from a fit without it, or None where the rows do not determine the constant.
    """

    value: float
    low: float
    high: float
    rows: str
    hold_out_error: Optional[float] = None

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} lies outside {self.low}..{self.high}")


@dataclass(frozen=True)
class ConvCalibration:
    """Constants of convolutions on one chip generation.

    conv_scale: factor on the planner's cycles without rearrangement. conv_pass_overhead: cycles of
    each pass (sync, control, exchange preamble). *_rearrange_scale: the same factor for
    rearrangements that keep the elements (plain: block transpositions beat the planner's one
    element a cycle), that turn kernel positions into channels (expand) and output positions into
    channels (flatten: scattered copies of single elements). combine_groups_overhead: cycles of a
    pass that computes several groups as one; two rows show it.

    data_bytes_scale: padding and mapping overhead on tensors; temp_scale: planned to real
    temporaries. Both are 1, not fitted: layers show no other value once each tile counts with its
    own share. vertex_state_scale: vertex state and worklists to what they take with the exchange
    code that grows with them. conv_code_bytes: code and exchange code of a tile for each step of a
    pass: operands, vertices, every rearranged tensor, reduction.
    """

    conv_scale: Calibrated
    conv_pass_overhead: Calibrated
    plain_rearrange_scale: Calibrated
    expand_rearrange_scale: Calibrated
    flatten_rearrange_scale: Calibrated
    combine_groups_overhead: Calibrated
    data_bytes_scale: Calibrated
    temp_scale: Calibrated
    vertex_state_scale: Calibrated
    conv_code_bytes: Calibrated


_MK1_ROWS = "benchmarks/published/conv_layers.csv, mk1, 48 rows"
_MK2_ROWS = "benchmarks/published/conv_layers.csv, mk2, 48 rows"

_ALL_ROWS = "benchmarks/published/conv_layers.csv, mk1 and mk2, 96 rows"
_COMBINED_ROWS = "mobilenet_depthwise_5 and _11 on mk1: little evidence"

_SHARED = {
    "plain_rearrange_scale": Calibrated(0.4562, 0.2, 1.5, _ALL_ROWS, 0.035),
    "expand_rearrange_scale": Calibrated(0.8155, 0.5, 2, _ALL_ROWS, 0.035),
    "flatten_rearrange_scale": Calibrated(2.613, 1, 5, _ALL_ROWS, 0.035),
    "combine_groups_overhead": Calibrated(6986, 0, 10000, _COMBINED_ROWS, 0.035),
}

_UNSCALED = {
    "data_bytes_scale": Calibrated(1.0, 1.0, 1.5, "not fitted: " + _ALL_ROWS, 0.04),
    "temp_scale": Calibrated(1.0, 0.9, 1.4, "not fitted: " + _ALL_ROWS, 0.04),
}

CONV_CALIBRATIONS: Dict[str, ConvCalibration] = {
    "mk1": ConvCalibration(
        conv_scale=Calibrated(1.027, 0.9, 1.4, _MK1_ROWS, 0.035),
        conv_pass_overhead=Calibrated(1928, 300, 3000, _MK1_ROWS, 0.035),
        **_SHARED,
        **_UNSCALED,
        vertex_state_scale=Calibrated(3.401, 1, 6, _MK1_ROWS, 0.046),
        conv_code_bytes=Calibrated(327.6, 100, 1500, _MK1_ROWS, 0.046),
    ),
    "mk2": ConvCalibration(
        conv_scale=Calibrated(1.017, 0.9, 1.4, _MK2_ROWS, 0.035),
        conv_pass_overhead=Calibrated(2053, 300, 3000, _MK2_ROWS, 0.035),
        **_SHARED,
        **_UNSCALED,
        vertex_state_scale=Calibrated(2.59, 1, 6, _MK2_ROWS, 0.036),
        conv_code_bytes=Calibrated(322.5, 100, 1500, _MK2_ROWS, 0.036),
    ),
}

# Bow and the C600 are Mk2 at another clock: the same cycles and bytes.
_GENERATION = {
    "mk1": "mk1",
    "ipu1": "mk1",
    "mk2": "mk2",
    "ipu2": "mk2",
    "bow": "mk2",
    "c600": "mk2",
    "ipu21": "mk2",
}


def conv_calibration(target: str) -> ConvCalibration:
    """Constants for a chip by name (mk1, mk2, bow, c600 or ipu1, ipu2, ipu21); KeyError else."""
    return CONV_CALIBRATIONS[_GENERATION[target.lower()]]


@dataclass(frozen=True)
class OpCalibration:
    """Constants of everything that is not a convolution, the same for all chips.

    cs_overhead: cycles of every compute set outside convolutions (sync and control).
    elementwise_scale, reduce_scale: factors on the formulas of elementwise passes and of
    reductions. reduce_fixed: cycles of every reduction beside them, counted as synchronisation.
    cs_code_bytes: code, vertex state and exchange code of one compute set on a used tile;
    cs_control_bytes: its control code on every tile.
    """

    cs_overhead: Calibrated
    elementwise_scale: Calibrated
    reduce_scale: Calibrated
    reduce_fixed: Calibrated
    cs_code_bytes: Calibrated
    cs_control_bytes: Calibrated


_NOT_FITTED = "prior; the rows do not determine it"
_THROUGHPUT_ROWS = "benchmarks/published/throughput.csv, 22 rows; python -m benchmarks.calibrate"
_FITTING_ROWS = "benchmarks/published/fits.csv, 39 rows, one-sided: what ran must fit"

OP_CALIBRATION = OpCalibration(
    cs_overhead=Calibrated(200.4, 50, 500, _THROUGHPUT_ROWS, 0.055),
    elementwise_scale=Calibrated(1.273, 0.7, 2.0, _THROUGHPUT_ROWS, 0.055),
    reduce_scale=Calibrated(1.099, 0.3, 2.0, _THROUGHPUT_ROWS, 0.055),
    reduce_fixed=Calibrated(1103, 0, 5000, _THROUGHPUT_ROWS, 0.055),
    cs_code_bytes=Calibrated(70, 30, 400, _FITTING_ROWS),
    cs_control_bytes=Calibrated(24, 8, 60, _FITTING_ROWS),
)


@dataclass(frozen=True)
class MemoryCalibration:
    """Constants of memory beside those of convolutions, the same for all chips.

    tensor_scale: padding and mapping overhead on tensors of a whole program; in the benchmark of
    single convolutions every tensor has a host stream and its buffers beside. gap_fraction: bytes
    lost between variables that come and go, as a share of them.
    control_code_bytes: control program, stacks and run-time library of every tile.
    unshared_code_share: what is left of the code of operations that are not outlined one by one,
    since sequences of ten and more of them are. executable_share: part of the operations' code
    and vertex state that must be in executable memory; vertex state can be anywhere.
    """

    tensor_scale: Calibrated
    gap_fraction: Calibrated
    control_code_bytes: Calibrated
    unshared_code_share: Calibrated
    executable_share: Calibrated


MEMORY_CALIBRATION = MemoryCalibration(
    tensor_scale=Calibrated(1.02, 1.0, 1.3, _FITTING_ROWS),
    gap_fraction=Calibrated(0.04, 0.0, 0.1, _FITTING_ROWS),
    control_code_bytes=Calibrated(6000, 1000, 20000, _FITTING_ROWS),
    unshared_code_share=Calibrated(0.45, 0.2, 1.0, _FITTING_ROWS),
    executable_share=Calibrated(0.6, 0.4, 1.0, _FITTING_ROWS),
)


@dataclass(frozen=True)
class SystemCalibration:
    """Constants of links, host and synchronisation, the same for all systems.

    *_efficiency: share of the raw bandwidth of the system's description that a transfer gets, of
    IPU-Links in an all-reduce (GCL) and in a copy from IPU to IPU, of gateways between racks, of
    the host link, and of streaming memory. allreduce_latency_s: of every call of a collective.
    host_sync_s: of every transfer to or from the host. global_sync_cycles: of a synchronisation of
    several IPUs beside the way that it travels. gateway_latency_s: of every call of a collective
    between racks.
    """

    allreduce_efficiency: Calibrated
    allreduce_latency_s: Calibrated
    inter_ipu_efficiency: Calibrated
    gateway_efficiency: Calibrated
    host_efficiency: Calibrated
    host_sync_s: Calibrated
    streaming_efficiency: Calibrated
    global_sync_cycles: Calibrated
    gateway_latency_s: Calibrated


# Links get 0.85 in PopLibs lib/poplibs_test/Util.cpp; profiles of 16 IPUs show 500 to 650 cycles
# for a global synchronisation, 200 of them on the way.
SYSTEM_CALIBRATION = SystemCalibration(
    allreduce_efficiency=Calibrated(0.687, 0.3, 1.0, _THROUGHPUT_ROWS, 0.055),
    allreduce_latency_s=Calibrated(20e-6, 5e-6, 100e-6, _NOT_FITTED),
    inter_ipu_efficiency=Calibrated(0.85, 0.5, 1.0, _NOT_FITTED),
    gateway_efficiency=Calibrated(0.7, 0.3, 1.0, _NOT_FITTED),
    host_efficiency=Calibrated(0.8813, 0.3, 1.0, _THROUGHPUT_ROWS, 0.055),
    host_sync_s=Calibrated(10e-6, 1e-6, 50e-6, _NOT_FITTED),
    streaming_efficiency=Calibrated(0.7, 0.3, 1.0, _NOT_FITTED),
    global_sync_cycles=Calibrated(400, 100, 1000, _NOT_FITTED),
    gateway_latency_s=Calibrated(0.001074, 0, 5e-3, _THROUGHPUT_ROWS, 0.055),
)


@dataclass(frozen=True)
class SdkCalibration:
    """One factor on the cycles of all operations for each generation of the Poplar SDK: what its
    compiler and libraries do worse or better than the formulas.

    Generations are those of PopLibs' vertices and of its model of them: before 2, 2.0 to 2.2, 2.3
    to 2.6, and from 3 on.
    """

    sdk_1: Calibrated
    sdk_2_0: Calibrated
    sdk_2_3: Calibrated
    sdk_3: Calibrated

    @staticmethod
    def generation(release: str) -> str:
        """The field that holds for a release such as "2.5.0"."""
        major, minor = (int(part) for part in release.split(".")[:2])
        if major == 2:
            return "sdk_2_0" if minor < 3 else "sdk_2_3"
        return "sdk_1" if major < 2 else "sdk_3"

    def scale(self, release: str) -> float:
        """The factor of a release."""
        factor: Calibrated = getattr(self, self.generation(release))
        return factor.value


SDK_CALIBRATION = SdkCalibration(
    sdk_1=Calibrated(0.7958, 0.7, 1.6, _THROUGHPUT_ROWS, 0.055),
    sdk_2_0=Calibrated(1.147, 0.7, 1.6, _THROUGHPUT_ROWS, 0.055),
    sdk_2_3=Calibrated(0.9591, 0.7, 1.6, _THROUGHPUT_ROWS, 0.055),
    sdk_3=Calibrated(0.9127, 0.7, 1.6, _THROUGHPUT_ROWS, 0.055),
)


@dataclass(frozen=True)
class Calibration:
    """All constants for one chip."""

    conv: ConvCalibration
    op: OpCalibration
    memory: MemoryCalibration = MEMORY_CALIBRATION
    system: SystemCalibration = SYSTEM_CALIBRATION
    sdk: SdkCalibration = SDK_CALIBRATION


def calibration(target: str) -> Calibration:
    """Constants for a chip by name, as `conv_calibration`."""
    return Calibration(conv_calibration(target), OP_CALIBRATION)
