"""Transfers beyond one IPU: closed forms on shipped systems, and laws."""

from dataclasses import replace
from math import ceil
from typing import Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import find_system
from app.config.hardware import Links
from app.ipu_model.calibration import SYSTEM_CALIBRATION as CALIBRATION
from app.ipu_model.collectives import (
    all_gather_s,
    all_reduce_s,
    global_sync_cycles,
    host_sharing,
    host_transfer_s,
    inter_ipu_bytes_per_s,
    inter_ipu_copy_cycles,
    reduce_scatter_s,
    streaming_s,
)
from app.ipu_model.target import Target

POD16 = Target.of(find_system("IPU-POD16"))
POD128 = Target.of(find_system("IPU-POD128"))
LINK = 16e9
LATENCY = CALIBRATION.allreduce_latency_s.value
GATEWAY_LATENCY = CALIBRATION.gateway_latency_s.value
EFFICIENCY = CALIBRATION.allreduce_efficiency.value

sizes = st.integers(min_value=1, max_value=10**9)
layouts = st.sampled_from(
    [(n, k) for k in (1, 2, 4, 8, 16, 64) for n in (1, 2, 4, 8, 16, 32, 64, 128) if n * k <= 128]
)


# All-reduce.


@pytest.mark.parametrize(
    ("replicas", "ipus_per_replica", "links"),
    [
        (2, 1, 4),  # the pair alone
        (4, 1, 2),  # up one side of the ladder, down the other
        (16, 1, 2),
        (8, 2, 2),  # each side of the ladder has a ring of its own
        (4, 4, 1),  # two rings share a side
        (2, 8, 0.5),
    ],
)
def test_an_all_reduce_is_a_ring_over_the_links_between_replicas(
    replicas: int, ipus_per_replica: int, links: float
) -> None:
    gradients = 20e6
    assert all_reduce_s(gradients, replicas, ipus_per_replica, POD16, calls=3) == pytest.approx(
        2 * (replicas - 1) / replicas * gradients / (links * LINK * EFFICIENCY) + 3 * LATENCY
    )


def test_between_racks_only_shards_pass_the_gateways() -> None:
    gradients, replicas, racks = 20e6, 64, 2
    in_rack = replicas // racks
    ring = 2 * (in_rack - 1) / in_rack * gradients / (2 * LINK * EFFICIENCY)
    gateway = 25e9 / 4 * CALIBRATION.gateway_efficiency.value
    between = 2 * (racks - 1) / racks * (gradients / in_rack) / gateway
    found = all_reduce_s(gradients, replicas, 2, POD128)
    assert found == pytest.approx(ring + between + LATENCY + GATEWAY_LATENCY)


@pytest.mark.parametrize("collective", [all_reduce_s, reduce_scatter_s, all_gather_s])
def test_one_replica_has_nothing_to_exchange(collective: object) -> None:
    assert collective(1e9, 1, 16, POD16, 5) == 0  # type: ignore[operator]


@given(sizes, layouts, st.integers(1, 9))
def test_reduce_scatter_and_all_gather_together_move_what_an_all_reduce_moves(
    size: int, layout: Tuple[int, int], calls: int
) -> None:
    replicas, per_replica = layout
    halves = reduce_scatter_s(size, *layout, POD128, calls)
    halves += all_gather_s(size, *layout, POD128, calls)
    latency = calls * LATENCY if replicas > 1 else 0
    if replicas > 1 and replicas * per_replica > 64:
        latency += calls * GATEWAY_LATENCY
    assert halves - latency == pytest.approx(all_reduce_s(size, *layout, POD128, calls))


@given(sizes, layouts)
def test_more_bytes_calls_or_replicas_are_never_faster(size: int, layout: Tuple[int, int]) -> None:
    replicas, per_replica = layout
    before = all_reduce_s(size, replicas, per_replica, POD128)
    assert all_reduce_s(size + 1000, replicas, per_replica, POD128) >= before
    assert all_reduce_s(size, replicas, per_replica, POD128, calls=2) >= before
    if replicas > 1:
        assert all_reduce_s(size, replicas // 2, per_replica, POD128) <= before


def test_replicas_that_the_system_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 replicas of 2 IPUs need 32 IPUs, IPU-POD16 has 16"):
        all_reduce_s(1, 16, 2, POD16)


# Copies and synchronisation.


@pytest.mark.parametrize(
    ("from_ipu", "to_ipu", "bytes_per_s"),
    [
        (0, 1, 4 * LINK),
        (3, 2, 4 * LINK),
        (1, 2, 2 * LINK),
        (0, 3, 2 * LINK),
        (3, 4, 2 * LINK),
        (0, 63, 2 * LINK),
        (63, 64, 25e9 / 4),
    ],
)
def test_distance_decides_the_bandwidth(from_ipu: int, to_ipu: int, bytes_per_s: float) -> None:
    assert inter_ipu_bytes_per_s(from_ipu, to_ipu, POD128) == bytes_per_s
    assert inter_ipu_bytes_per_s(to_ipu, from_ipu, POD128) == bytes_per_s


def test_fewer_links_between_machines_slow_down_what_leaves_the_machine() -> None:
    links = replace(POD16.links, ipu=replace(POD16.links.ipu, links_between_machines=1))
    target = replace(POD16, links=links)
    assert inter_ipu_bytes_per_s(1, 2, target) == 2 * LINK
    assert inter_ipu_bytes_per_s(3, 4, target) == LINK
    assert all_reduce_s(1e6, 4, 1, target) == all_reduce_s(1e6, 4, 1, POD16)
    assert all_reduce_s(1e6, 16, 1, target) > all_reduce_s(1e6, 16, 1, POD16)


def test_a_copy_takes_its_bytes_at_the_clock_and_two_synchronisations() -> None:
    sent = 12 * 56 * 56 * 24 * 2
    transfer = sent / (4 * LINK * CALIBRATION.inter_ipu_efficiency.value) * POD16.clock_hz
    expected = transfer + 2 * global_sync_cycles(POD16, 2)
    assert inter_ipu_copy_cycles(sent, POD16, 0, 1) == pytest.approx(expected)
    assert inter_ipu_copy_cycles(sent, POD16, 1, 1) == 0


@pytest.mark.parametrize(("ipus", "hops"), [(1, 1), (2, 1), (4, 2), (16, 5), (0, 5)])
def test_a_synchronisation_travels_up_and_down_the_ladder(ipus: int, hops: int) -> None:
    travel = ceil(2 * 15e-9 * 1.325e9 * hops)
    assert global_sync_cycles(POD16, ipus) == CALIBRATION.global_sync_cycles.value + travel


@pytest.mark.parametrize("pair", [(0, 16), (-1, 3)])
def test_an_ipu_that_is_not_there_is_refused(pair: Tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="IPU-POD16 has IPUs 0 to 15, got"):
        inter_ipu_copy_cycles(1, POD16, *pair)


# Host and streaming memory.


@pytest.mark.parametrize(
    ("replicas", "ipus_per_replica", "sharing"), [(1, 1, 1), (16, 1, 4), (8, 2, 2), (4, 4, 1)]
)
def test_replicas_of_one_machine_share_its_host_link(
    replicas: int, ipus_per_replica: int, sharing: int
) -> None:
    assert host_sharing(replicas, ipus_per_replica, POD16) == sharing
    images = 12 * 224 * 224 * 3
    bandwidth = 12.5e9 * CALIBRATION.host_efficiency.value
    expected = images * sharing / bandwidth + CALIBRATION.host_sync_s.value
    assert host_transfer_s(images, POD16, sharing) == pytest.approx(expected)


def test_nothing_to_transfer_takes_no_time() -> None:
    assert host_transfer_s(0, POD16, 4) == 0
    assert streaming_s(0, POD16) == 0
    assert streaming_s(0, Target.of(find_system("C600"))) == 0


def test_off_chip_tensors_lie_in_streaming_memory_or_on_the_host() -> None:
    bandwidth = 38.4e9 / 4 * CALIBRATION.streaming_efficiency.value
    assert streaming_s(1e6, POD16) == pytest.approx(1e6 / bandwidth)
    card = Target.of(find_system("C2"))
    assert streaming_s(1e6, card) == host_transfer_s(1e6, card, ipus_sharing=2)


# Laws of hardware.


def times(target: Target, size: int) -> Tuple[float, ...]:
    f = target.clock_hz
    return (
        all_reduce_s(size, 32, 4, target),
        all_reduce_s(size, 2, 1, target),
        inter_ipu_copy_cycles(size, target, 0, 1) / f,
        inter_ipu_copy_cycles(size, target, 2, 5) / f,
        inter_ipu_copy_cycles(size, target, 60, 70) / f,
        host_transfer_s(size, target),
        streaming_s(size, target),
    )


def faster(links: Links, factor: float, what: str) -> Links:
    section = getattr(links, what)
    return replace(links, **{what: replace(section, bytes_per_s=section.bytes_per_s * factor)})


@given(
    sizes,
    st.sampled_from(["ipu", "host", "gateway", "streaming"]),
    st.floats(min_value=1, max_value=100),
)
def test_more_bandwidth_is_never_slower(size: int, what: str, factor: float) -> None:
    better = replace(POD128, links=faster(POD128.links, factor, what))
    assert all(a <= b * (1 + 1e-12) for a, b in zip(times(better, size), times(POD128, size)))


@given(sizes, st.floats(min_value=1, max_value=4))
def test_a_higher_clock_is_never_slower_but_for_the_rounding_of_a_sync(
    size: int, factor: float
) -> None:
    clock_hz = POD128.clock_hz * factor
    better = replace(POD128, planner=replace(POD128.planner, clock_hz=clock_hz))
    two_syncs_s = 2 / clock_hz  # each is rounded up to a whole cycle
    for after, before in zip(times(better, size), times(POD128, size)):
        assert after <= before * (1 + 1e-12) + two_syncs_s
