"""What the kernel says of real connections over netlink, and that it ends exactly the one that was meant."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.proxy.conntrack_netlink import Conntrack, ConntrackError, EndedConnections, enable_accounting
from agent.proxy.conntrack_wire import DST_NAT, Counters, Entry
from netns import namespaces
from rules.snapshot import Family
from tests.harness.flows import ENDPOINT_PORT, ENDPOINTS, NODE_IPS, PORT, VIPS, Flows, prepare_flows

FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
HEADERS = {4: 28, 6: 48}  # bytes of the IP and UDP headers
both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def flows(node_namespace: str) -> Flows:
    return prepare_flows(node_namespace)


@pytest.fixture
def conntrack(flows: Flows) -> Iterator[Conntrack]:
    made = flows.inside(Conntrack)
    yield made
    made.close()


@pytest.fixture
def ended(flows: Flows) -> Iterator[EndedConnections]:
    made = flows.inside(EndedConnections)
    assert flows.inside(enable_accounting) == ()
    yield made
    made.close()


@both_families
def test_udp_flows_are_listed_and_deleted_one_by_one(flows: Flows, conntrack: Conntrack, version: int) -> None:
    endpoint, vip = ENDPOINTS[version][0], VIPS[version]
    flows.send_to(endpoint, to=vip)
    with flows.udp(endpoint, vip) as exchange:
        exchange(1, 1)
        [one] = conntrack.dump(FAMILIES[version], ("UDP",))
    with flows.udp(endpoint, vip) as exchange:
        exchange(1, 1)
        [other] = (entry for entry in conntrack.dump(FAMILIES[version], ("UDP",)) if entry.id != one.id)
        assert {one.destination, other.destination} == {(vip, PORT)}
        assert {one.endpoint, other.endpoint} == {(endpoint, ENDPOINT_PORT)}
        assert conntrack.delete(one)
        assert [entry.id for entry in conntrack.dump(FAMILIES[version], ("UDP",))] == [other.id]
        assert not conntrack.delete(one)  # ended already
        assert conntrack.delete(other)
        exchange(1, 1)  # the same socket: translated anew
        [young] = conntrack.dump(FAMILIES[version], ("UDP",))
        assert young.original == other.original
        assert not conntrack.delete(young._replace(id=young.id ^ 1))  # the same addresses, but another connection
        assert [entry.id for entry in conntrack.dump()] == [young.id]


@both_families
def test_only_what_was_asked_for_is_listed(flows: Flows, conntrack: Conntrack, version: int) -> None:
    endpoint, vip = ENDPOINTS[version][0], VIPS[version]
    flows.send_to(endpoint, to=vip)
    with flows.udp(endpoint, vip) as translated, flows.tcp(endpoint, vip):
        translated(1, 1)
        with flows.udp(ENDPOINTS[version][1], ENDPOINTS[version][1], ENDPOINT_PORT) as straight:
            straight(1, 1)
            other = FAMILIES[10 - version]
            assert conntrack.dump(other) == []
            assert len(conntrack.dump()) == len(conntrack.dump(FAMILIES[version])) == 3
            assert len(conntrack.dump(protocols=("UDP", "SCTP"))) == 2
            assert len(conntrack.dump(status=DST_NAT)) == 2
            assert [entry.tcp_state for entry in conntrack.dump(protocols=("TCP",))] == [3]


def test_more_entries_than_fit_into_one_datagram(flows: Flows, conntrack: Conntrack) -> None:
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with ExitStack() as stack:
        for _ in range(400):  # of some 200 bytes each
            client = stack.enter_context(flows.open_socket(4, socket.SOCK_DGRAM))
            client.sendto(b"x", (VIPS[4], PORT))
        found = conntrack.dump(protocols=("UDP",))
        assert len({entry.id for entry in found}) == 400


@both_families
def test_ended_connections_say_what_they_carried(
    flows: Flows, conntrack: Conntrack, ended: EndedConnections, version: int
) -> None:
    endpoint, vip, header = ENDPOINTS[version][0], VIPS[version], HEADERS[version]
    flows.send_to(endpoint, to=vip)
    with flows.udp(endpoint, vip) as exchange:
        exchange(100, 1000)
        exchange(10, 20)
    assert list(ended.drain()) == []
    [entry] = conntrack.dump(protocols=("UDP",))
    conntrack.delete(entry)
    [told] = list(ended.drain())
    assert (told.id, told.destination, told.endpoint) == (entry.id, (vip, PORT), (endpoint, ENDPOINT_PORT))
    assert told.sent == Counters(2, 110 + 2 * header)
    assert told.received == Counters(2, 1020 + 2 * header)
    assert (list(ended.drain()), ended.lost) == ([], 0)


def test_other_peoples_connections_are_not_heard_of(
    flows: Flows, conntrack: Conntrack, ended: EndedConnections
) -> None:
    everything = flows.inside(lambda: EndedConnections(status=0))
    flows.translate("ct state invalid accept")  # a rule that needs conntrack, or nothing is tracked
    try:
        with flows.udp(ENDPOINTS[4][0], ENDPOINTS[4][0], ENDPOINT_PORT) as straight:
            straight(1, 1)
        for entry in conntrack.dump():
            conntrack.delete(entry)
        assert len(list(everything.drain())) == 1
        assert (list(ended.drain()), ended.lost) == ([], 0)
    finally:
        everything.close()


def test_what_was_lost_is_counted(flows: Flows, conntrack: Conntrack) -> None:
    count = 300
    ended = flows.inside(lambda: EndedConnections(receive_buffer=16_384))
    try:
        flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
        with ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(flows.open_socket(4, socket.SOCK_DGRAM))
                client.sendto(b"x", (VIPS[4], PORT))
            for entry in conntrack.dump(status=DST_NAT):
                conntrack.delete(entry)
            heard = list(ended.drain())
            assert 0 < len(heard) < count
            assert len(heard) + ended.lost == count
            client.sendto(b"x", (VIPS[4], PORT))
            conntrack.delete(conntrack.dump(status=DST_NAT)[0])
            assert len(list(ended.drain())) == 1  # it goes on afterwards
    finally:
        ended.close()


def test_a_reset_connection_ends_soon(flows: Flows, conntrack: Conntrack, ended: EndedConnections) -> None:
    """The kernel itself ends an entry, not somebody who deletes it."""
    flows.inside(lambda: Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close").write_text("1"))
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with flows.tcp(ENDPOINTS[4][0], VIPS[4]) as (client, _):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        conntrack.dump()  # the kernel looks for expired entries now and then, and whenever somebody lists them
        found = list(ended.drain())
        time.sleep(0.05)
    assert [(entry.endpoint, entry.tcp_state) for entry in found] == [((ENDPOINTS[4][0], ENDPOINT_PORT), 8)]


def test_accounting_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    assert len(enable_accounting(tmp_path)) == 2
    (tmp_path / "nf_conntrack_acct").mkdir()
    (tmp_path / "nf_conntrack_events").write_text("2\n")
    [problem] = enable_accounting(tmp_path)
    assert "nf_conntrack_acct" in problem
    assert (tmp_path / "nf_conntrack_events").read_text() == "1"


def test_a_namespace_keeps_its_connections_to_itself(flows: Flows, conntrack: Conntrack, node_namespace: str) -> None:
    with flows.udp(NODE_IPS[4], NODE_IPS[4], ENDPOINT_PORT) as exchange:
        flows.translate("ct state invalid accept")
        exchange(1, 1)
        elsewhere = namespaces.in_new(Conntrack)
        try:
            assert (len(conntrack.dump()), elsewhere.dump()) == (1, [])
        finally:
            elsewhere.close()


def test_the_message_says_what_failed(conntrack: Conntrack) -> None:
    conntrack.close()
    with pytest.raises(ConntrackError, match="cannot list connections: "):
        conntrack.dump()
