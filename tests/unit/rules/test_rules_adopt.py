"""What installed rules say of themselves."""

from __future__ import annotations

import pytest

from rules.iptables.adopt import Destination, find_destinations
from rules.iptables.lower import lower_frontends
from rules.iptables.parse import parse_rule
from rules.iptables.ruleset import Ruleset, Table
from rules.policy import resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, Settings
from tests.harness.services import Made, make_service, make_snapshot


def lowered(*made: Made, family: Family = Family.IPV4) -> Ruleset:
    settings = Settings(cluster_cidrs=("10.244.0.0/16", "fd00:244::/64"))
    return lower_frontends(resolve_frontends(make_snapshot(*made, settings=settings)), family)


FULL = make_service(
    "full",
    "10.244.0.1",
    "10.244.0.2",
    protocol="UDP",
    port=53,
    node_port=30053,
    external_ips=("198.51.100.1",),
    load_balancer=(LoadBalancerIngress("203.0.113.1"),),
    source_ranges=("198.51.100.0/24",),
    affinity_seconds=60,
)
PLACES = {
    Destination("UDP", "10.96.0.10", 53),
    Destination("UDP", "198.51.100.1", 53),
    Destination("UDP", "203.0.113.1", 53),
    Destination("UDP", None, 30053),
}


def test_every_place_at_which_a_service_listens() -> None:
    other = make_service("other", "10.244.0.1", vip="10.96.0.11", protocol="SCTP")
    web = make_service("web", "10.244.0.1", vip="10.96.0.12")
    ruleset = lowered(FULL, other, web)
    assert find_destinations(ruleset, "UDP") == PLACES
    assert find_destinations(ruleset, "UDP", "SCTP") == PLACES | {Destination("SCTP", "10.96.0.11", 80)}
    assert find_destinations(ruleset, "TCP") == {Destination("TCP", "10.96.0.12", 80)}
    assert find_destinations(ruleset) == frozenset()


def test_trees_are_looked_into() -> None:
    """Their jumps are for networks and ranges of ports, and are no places."""
    made = [
        make_service(f"svc-{n}", "10.244.0.1", vip=f"10.96.{n}.1", protocol="UDP", node_port=30000 + n)
        for n in range(100)
    ]
    found = find_destinations(lowered(*made), "UDP")
    assert found == {Destination("UDP", f"10.96.{n}.1", 80) for n in range(100)} | {
        Destination("UDP", None, 30000 + n) for n in range(100)
    }


def test_ipv6() -> None:
    made = make_service("six", "fd00:244::1", vip="fd00:96::a", protocol="UDP")
    assert find_destinations(lowered(made, family=Family.IPV6), "UDP") == {Destination("UDP", "fd00:96::a", 80)}


def test_where_nobody_is_sent_on_nothing_listens() -> None:
    assert find_destinations(lowered(make_service("none", protocol="UDP", node_port=30001)), "UDP") == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "-p udp -m comment --comment x -m udp --dport 53 -j ACCEPT",  # to no Service
        "-p udp -m comment --comment x -m udp --dport 50:60 -j KUBE-SVC-A",  # not one port
        "-p udp -m comment --comment x -j KUBE-SVC-A",
        '-m comment --comment "not -p udp really" -j KUBE-SVC-A',
        "-m comment --comment x -j KUBE-SVC-A",
    ],
)
def test_what_tampering_may_have_left(text: str) -> None:
    ruleset = Ruleset(nat=Table({"KUBE-SERVICES": (parse_rule(text),)}))
    assert find_destinations(ruleset, "UDP") == frozenset()
