"""Which connections have to end when Services change."""

from __future__ import annotations

import socket

import pytest

from agent.proxy.conntrack import Places, stale_entries, usable_endpoints
from agent.proxy.conntrack_wire import PROTOCOLS, Direction, Entry
from rules.iptables.adopt import Destination
from rules.policy import resolve_frontends
from rules.snapshot import Family, Node
from tests.harness.services import Made, endpoint, make_service, make_snapshot

A, B, C = "10.244.0.1", "10.244.0.2", "10.244.1.3"
VIP, NODE_PORT = ("10.96.0.10", 80), ("192.0.2.2", 30053)
FOREIGN_PORT = ("198.51.100.9", 30053)  # our NodePort's number on somebody else's address


def places(*made: Made) -> Places:
    frontends = resolve_frontends(make_snapshot(*made, node=Node("here", ("192.0.2.2",))))
    return usable_endpoints(frontends.services.values(), Family.IPV4)


def udp(*endpoints: str) -> Made:
    return make_service("udp", *(endpoint(e) for e in endpoints), protocol="UDP", node_port=30053)


def entry(destination: tuple[str, int], answered_by: str, protocol: str = "UDP") -> Entry:
    """An endpoint answers from port 8080, anybody else from the port that was asked."""
    (address, port), client = destination, socket.inet_aton("10.244.0.77")
    there = Direction(client, socket.inet_aton(address), 4000, port)
    port = port if answered_by == address else 8080
    back = Direction(socket.inet_aton(answered_by), client, port, 4000)
    return Entry(Family.IPV4, PROTOCOLS[protocol], there, back)


@pytest.mark.parametrize(
    ("destination", "answered_by", "before", "after", "is_stale"),
    [
        (VIP, A, [A, B], [A, B], False),
        (VIP, A, [A, B], [B], True),  # the endpoint is gone
        (VIP, A, [A], [], True),  # N to 0
        (VIP, VIP[0], [], [A], True),  # 0 to N: the flow never went to an endpoint
        (VIP, C, None, [A], True),  # after a restart: who was before is not known
        (VIP, A, None, [A], False),
        (VIP, A, [A], None, True),  # the Service is gone
        (VIP, C, [A], None, False),
        (NODE_PORT, A, [A], [B], True),
        (NODE_PORT, B, [A], [B], False),
        (NODE_PORT, C, None, [B], True),
        (NODE_PORT, A, [A], None, True),
        (FOREIGN_PORT, C, [A], [B], False),
        (FOREIGN_PORT, A, [A], [B], True),  # another of our addresses, then
        (("198.51.100.9", 53), A, [A], [B], False),
    ],
)
def test_stale_entries(
    destination: tuple[str, int], answered_by: str, before: list[str] | None, after: list[str] | None, is_stale: bool
) -> None:
    old, new = (places() if e is None else places(udp(*e)) for e in (before, after))
    found = entry(destination, answered_by)
    stale = stale_entries([found], before=old, after=new, node_addresses=["192.0.2.2"])
    assert stale == ([found] if is_stale else [])


@pytest.mark.parametrize(
    ("place", "answered_by", "is_stale"),
    [
        (VIP, A, True),  # whoever it was
        (VIP, VIP[0], False),  # a real host of that address, by now
        (NODE_PORT, A, True),
        (NODE_PORT, NODE_PORT[0], False),
        (("10.96.0.99", 80), A, False),
    ],
)
def test_destinations_read_off_the_rules_of_an_earlier_proxy(
    place: tuple[str, int], answered_by: str, is_stale: bool
) -> None:
    """Their Services went while no proxy ran, and nobody knows their endpoints any more."""
    before: Places = {Destination("UDP", *VIP): None, Destination("UDP", None, NODE_PORT[1]): None}
    found = stale_entries([entry(place, answered_by)], before=before, after={}, node_addresses=["192.0.2.2"])
    assert bool(found) == is_stale


def test_only_connectionless_protocols_are_looked_at() -> None:
    made = [
        make_service(name, A, protocol=name.upper(), vip=f"10.96.0.{n}")
        for n, name in enumerate(("tcp", "udp", "sctp"))
    ]
    assert {place.protocol for place in places(*made)} == {"UDP", "SCTP"}


def test_another_protocol_on_the_same_port_is_another_service() -> None:
    stale = stale_entries([entry(VIP, A, "SCTP")], before=places(udp(A)), after=places(udp(B)), node_addresses=[])
    assert not stale
