"""Transfers beyond one IPU: between IPUs, over replicas, to the host and to streaming memory.

The topology is documented, by data sheets and by PopLibs' own IPU Model: pairs of IPUs are the
rungs of a ladder of IPU-Links, which goes on from machine to machine through a rack; gateways join
the machines of different racks. Assumed are the algorithm of the all-reduce (the library is
closed: a ring in each rack, then between racks), that replicas lie one after the other, that the
first stages of all replicas of a machine use its host link at once, and all its IPUs its streaming
memory, and the efficiencies, which are calibrated. `bytes` are those of one IPU throughout,
bandwidths those of one direction.
"""

from math import ceil
from typing import Iterator, Tuple

from app.ipu_model.calibration import SYSTEM_CALIBRATION, SystemCalibration
from app.ipu_model.target import Target

__all__ = [
    "all_gather_s",
    "all_reduce_s",
    "global_sync_cycles",
    "host_sharing",
    "host_transfer_s",
    "inter_ipu_bytes_per_s",
    "inter_ipu_copy_cycles",
    "reduce_scatter_s",
    "streaming_s",
]


def all_reduce_s(
    bytes_per_ipu: float,
    replicas: int,
    ipus_per_replica: int,
    target: Target,
    calls: int = 1,
    calibration: SystemCalibration = SYSTEM_CALIBRATION,
) -> float:
    """Seconds of an all-reduce: each IPU's tensor with its counterparts of all other replicas.

    With n replicas in one rack, B bytes and ring bandwidth w:

        2 (n-1)/n * B/w + latency * calls

    With r racks of n replicas the shards B/n are all-reduced over the gateways between the two
    halves of that:  + 2 (r-1)/r * (B/n) / gateway bandwidth, and a latency of the gateways. A
    single replica costs nothing.

    Raises:
        ValueError: the replicas need more IPUs than the system has.
    """
    once = _half_s(bytes_per_ipu, replicas, ipus_per_replica, target, calibration)
    return 2 * once + _latency_s(replicas, ipus_per_replica, target, calls, calibration)


def reduce_scatter_s(
    bytes_per_ipu: float,
    replicas: int,
    ipus_per_replica: int,
    target: Target,
    calls: int = 1,
    calibration: SystemCalibration = SYSTEM_CALIBRATION,
) -> float:
    """Seconds until each replica holds the sum of its share of the tensor: half an all-reduce.

    `bytes_per_ipu` are those before it, of the whole tensor. Raises as `all_reduce_s`.
    """
    once = _half_s(bytes_per_ipu, replicas, ipus_per_replica, target, calibration)
    return once + _latency_s(replicas, ipus_per_replica, target, calls, calibration)


def all_gather_s(
    bytes_per_ipu: float,
    replicas: int,
    ipus_per_replica: int,
    target: Target,
    calls: int = 1,
    calibration: SystemCalibration = SYSTEM_CALIBRATION,
) -> float:
    """Seconds until each replica holds the whole tensor of which it had a share.

    `bytes_per_ipu` are those after it, of the whole tensor; it takes as long as the reduce-scatter
    that it undoes. Raises as `all_reduce_s`.
    """
    return reduce_scatter_s(bytes_per_ipu, replicas, ipus_per_replica, target, calls, calibration)


def inter_ipu_bytes_per_s(from_ipu: int, to_ipu: int, target: Target) -> float:
    """Raw bandwidth of one transfer from IPU to IPU: that of the narrowest part of its way.

    A pair has `links_in_pair` links; up and down the ladder an IPU has `links_between_pairs`, and
    `links_between_machines` where it ends a machine. Another rack is reached by an IPU's share of
    its machine's gateway.

    Raises:
        ValueError: an IPU that the system does not have.
    """
    for ipu in (from_ipu, to_ipu):
        if not 0 <= ipu < target.ipus:
            raise ValueError(f"{target.name} has IPUs 0 to {target.ipus - 1}, got {ipu}")
    links, gateway = target.links.ipu, target.links.gateway
    if from_ipu // 2 == to_ipu // 2:
        return links.links_in_pair * links.bytes_per_s
    narrowest = links.links_between_pairs
    if from_ipu // links.machine_ipus != to_ipu // links.machine_ipus:
        narrowest = min(narrowest, links.links_between_machines)
    bytes_per_s = narrowest * links.bytes_per_s
    if gateway is not None and from_ipu // links.rack_ipus != to_ipu // links.rack_ipus:
        return min(bytes_per_s, gateway.bytes_per_s / gateway.ipus)
    return bytes_per_s


def inter_ipu_copy_cycles(
    bytes: float,
    target: Target,
    from_ipu: int,
    to_ipu: int,
    calibration: SystemCalibration = SYSTEM_CALIBRATION,
) -> float:
    """Cycles of a copy to another IPU: bytes * f / bandwidth + 2 global synchronisations.

    The IPUs from the one to the other are synchronised, before and after. A copy to the same IPU
    takes nothing. Raises as `inter_ipu_bytes_per_s`.
    """
    if from_ipu == to_ipu:
        return 0.0
    raw = inter_ipu_bytes_per_s(from_ipu, to_ipu, target)
    transfer_s = bytes / (raw * calibration.inter_ipu_efficiency.value)
    sync_cycles = global_sync_cycles(target, abs(to_ipu - from_ipu) + 1, calibration)
    return transfer_s * target.clock_hz + 2 * sync_cycles


def global_sync_cycles(
    target: Target, ipus: int = 0, calibration: SystemCalibration = SYSTEM_CALIBRATION
) -> float:
    """Cycles of a synchronisation of `ipus` IPUs (0: of the whole system).

        calibrated constant + ceil(2 * hop latency * f * hops),    hops = 1 + floor(ipus / 4)

    The second term is PopLibs', lib/poplibs_test/Util.cpp (setGlobalSyncLatency).
    """
    hops = 1 + (ipus or target.ipus) // 4
    travel = ceil(2 * target.links.sync.hop_s * target.clock_hz * hops)
    return calibration.global_sync_cycles.value + travel


def host_sharing(replicas: int, ipus_per_replica: int, target: Target) -> int:
    """Replicas that transfer over one host link: one IPU of each, with its first stage."""
    return max(1, min(replicas, target.links.host.ipus // ipus_per_replica))


def host_transfer_s(
    bytes: float,
    target: Target,
    ipus_sharing: int = 1,
    calibration: SystemCalibration = SYSTEM_CALIBRATION,
) -> float:
    """Seconds of a transfer to or from the host, of `ipus_sharing` IPUs on one link at once.

        bytes * ipus_sharing / host bandwidth + host synchronisation

    Nothing, where there are no bytes.
    """
    if bytes == 0:
        return 0.0
    bytes_per_s = target.links.host.bytes_per_s * calibration.host_efficiency.value
    return bytes * ipus_sharing / bytes_per_s + calibration.host_sync_s.value


def streaming_s(
    bytes: float, target: Target, calibration: SystemCalibration = SYSTEM_CALIBRATION
) -> float:
    """Seconds to read or write tensors off chip, while all IPUs of the machine do the same.

    A system without streaming memory keeps them in the host's memory.
    """
    streaming = target.links.streaming
    if streaming is None:
        return host_transfer_s(bytes, target, target.links.host.ipus, calibration)
    share_bytes_per_s = streaming.bytes_per_s / streaming.ipus
    return bytes / (share_bytes_per_s * calibration.streaming_efficiency.value)


def _latency_s(
    replicas: int,
    ipus_per_replica: int,
    target: Target,
    calls: int,
    calibration: SystemCalibration,
) -> float:
    if replicas == 1:
        return 0.0
    latency_s = calibration.allreduce_latency_s.value
    if _racks(replicas, ipus_per_replica, target) > 1:
        latency_s += calibration.gateway_latency_s.value
    return calls * latency_s


def _racks(replicas: int, ipus_per_replica: int, target: Target) -> int:
    return ceil(replicas * ipus_per_replica / target.links.ipu.rack_ipus)


def _half_s(
    bytes_per_ipu: float,
    replicas: int,
    ipus_per_replica: int,
    target: Target,
    calibration: SystemCalibration,
) -> float:
    """Seconds of a reduce-scatter, level by level; each level leaves a share to the next."""
    needed = replicas * ipus_per_replica
    if needed > target.ipus:
        raise ValueError(
            f"{replicas} replicas of {ipus_per_replica} IPUs need {needed} IPUs, "
            f"{target.name} has {target.ipus}; use fewer or a larger system"
        )
    seconds, left_bytes = 0.0, bytes_per_ipu
    for members, bytes_per_s in _levels(replicas, ipus_per_replica, target, calibration):
        seconds += (members - 1) / members * left_bytes / bytes_per_s
        left_bytes /= members
    return seconds


def _levels(
    replicas: int, ipus_per_replica: int, target: Target, calibration: SystemCalibration
) -> Iterator[Tuple[int, float]]:
    """Members of a ring and what each can send, first in a rack, then between racks."""
    racks = _racks(replicas, ipus_per_replica, target)
    in_rack = ceil(replicas / racks)
    efficiency = calibration.allreduce_efficiency.value
    yield in_rack, _ring_bytes_per_s(in_rack, ipus_per_replica, target) * efficiency
    gateway = target.links.gateway
    if racks > 1 and gateway is not None:
        share = gateway.bytes_per_s / gateway.ipus
        yield ceil(replicas / in_rack), share * calibration.gateway_efficiency.value


def _ring_bytes_per_s(replicas: int, ipus_per_replica: int, target: Target) -> float:
    """What an IPU can send to its counterpart in the next replica of a ring.

    Two IPUs alone use the links of their pair. Else the cut between neighbouring replicas has the
    links of both sides of the ladder, which the rings of a replica's IPUs share. Single IPUs form
    one ring, up one side and down the other, so that each has the links of its side.
    """
    links = target.links.ipu
    span = replicas * ipus_per_replica
    if span <= 2:
        return links.links_in_pair * links.bytes_per_s
    narrowest = links.links_between_pairs
    if span > links.machine_ipus:
        narrowest = min(narrowest, links.links_between_machines)
    return 2 * narrowest * links.bytes_per_s / max(2, ipus_per_replica)
