"""Whose a connection is, and how connections add up while Services, endpoints and addresses come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy import traffic
from agent.proxy.conntrack_wire import DST_NAT, PROTOCOLS, Counters, Direction, Entry, pack
from agent.proxy.traffic import Ledger, PortRow, Tally
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, ServicePort
from tests.harness.services import SETTINGS, Made, endpoint, make_service, make_snapshot

A, B, C = "10.244.0.1", "10.244.0.2", "10.244.1.3"
VIP, VIP6, NODE_IP = "10.96.0.10", "fd00:96::a", "192.0.2.2"


def frontends(*made: Made) -> Frontends:
    return resolve_frontends(make_snapshot(*made, settings=SETTINGS))


def entry(
    to: str = VIP,
    port: int = 80,
    *,
    at: str = A,
    at_port: int = 8080,
    protocol: str = "TCP",
    size: int = 100,
    state: int = 3,
) -> Entry:
    family = Family.IPV6 if ":" in to else Family.IPV4
    client = pack("fd00::1" if family is Family.IPV6 else "10.244.0.9")
    there, back = Direction(client, pack(to), 40000, port), Direction(pack(at), client, at_port, 40000)
    carried = Counters(1, size), Counters(2, 10 * size)
    return Entry(family, PROTOCOLS[protocol], there, back, 1, DST_NAT, 0, state, *carried)


def ledger(*made: Made) -> Ledger:
    kept = Ledger()
    kept.follow(frontends(*made))
    return kept


def only(rows: tuple[PortRow, ...]) -> PortRow:
    [row] = rows
    return row


def by_endpoint(row: PortRow) -> dict[str, Tally]:
    return {f"{found.address}:{found.port}": found.total for found in row.endpoints}


def test_connections_add_up_by_endpoint() -> None:
    kept = ledger(make_service("web", A, B, port_name="http"))
    kept.add([entry(at=A), entry(at=B), entry(at=B)])
    row = only(kept.rows([entry(at=A, size=7), entry(at=A, state=7)]))
    assert (row.namespace, row.service, row.port_name, row.port, row.protocol) == ("default", "web", "http", 80, "TCP")
    assert by_endpoint(row) == {f"{A}:8080": Tally(3, 1, 207, 2070), f"{B}:8080": Tally(2, 0, 200, 2000)}
    assert (row.total, row.gone, row.exists) == (Tally(5, 1, 407, 4070), Tally(), True)


def test_looking_changes_nothing() -> None:
    kept = ledger(make_service("web", A))
    kept.add([entry()])
    assert kept.rows([entry()]) == kept.rows([entry()])
    assert only(kept.rows([])).total == Tally(1, 0, 100, 1000)


@pytest.mark.parametrize(
    ("made", "to", "port"),
    [
        (make_service("web", A), VIP, 80),
        (make_service("web", A, node_port=30001), NODE_IP, 30001),
        (make_service("web", A, node_port=30001), "127.0.0.1", 30001),  # not in the Node object; but A answers
        (make_service("web", A, external_ips=("203.0.113.5",)), "203.0.113.5", 80),
        (make_service("web", A, type="LoadBalancer", load_balancer=(LoadBalancerIngress("203.0.113.6"),)), "203.0.113.6", 80),
        (make_service("web", "fd00:244::1", vip=VIP6), VIP6, 80),
    ],
    ids=["cluster-ip", "node-port", "node-port-other-address", "external-ip", "load-balancer", "ipv6"],
)  # fmt: skip
def test_every_frontend_leads_to_its_service(made: Made, to: str, port: int) -> None:
    kept = ledger(made)
    kept.add([entry(to, port, at="fd00:244::1" if ":" in to else A)])
    assert only(kept.rows([])).total.connections == 1


@pytest.mark.parametrize(
    "other",
    [
        entry("10.96.0.11"),
        entry(port=81),
        entry(protocol="UDP"),
        entry("198.51.100.1", 30001, at="198.51.100.9"),  # the port of a NodePort, but not here, nor answered by a pod of it
        entry(NODE_IP, 80),
    ],
    ids=["address", "port", "protocol", "elsewhere", "node"],
)  # fmt: skip
def test_other_peoples_connections_do_not_count(other: Entry) -> None:
    kept = ledger(make_service("web", A, node_port=30001))
    kept.add([other])
    assert only(kept.rows([other])).total == Tally()


def test_both_families_of_a_service_are_one_line() -> None:
    service, slices = make_service("web", A, cluster_ips=(VIP, VIP6))
    _, slices6 = make_service("web6", "fd00:244::1", vip=VIP6)
    kept = ledger((service, (*slices, *slices6)))
    kept.add([entry(), entry(VIP6, at="fd00:244::1")])
    row = only(kept.rows([]))
    assert (row.total.connections, len(row.endpoints)) == (2, 2)


def test_one_port_number_under_two_protocols_is_two_lines() -> None:
    ports = (ServicePort(53, "dns", "UDP"), ServicePort(53, "dns-tcp", "TCP"))
    kept = ledger(make_service("dns", A, ports=ports))
    kept.add([entry(port=53, protocol="UDP")])
    assert [(row.port_name, row.protocol, row.total.connections) for row in kept.rows([])] == [
        ("dns", "UDP", 1),
        ("dns-tcp", "TCP", 0),
    ]


def test_an_endpoint_that_left_is_shown_while_connections_are_open_on_it() -> None:
    kept = ledger(make_service("web", A, B))
    kept.add([entry(at=A)])
    kept.follow(frontends(make_service("web", B)))
    row = only(kept.rows([entry(at=A)]))
    assert [(found.address, found.current, found.total.open) for found in row.endpoints] == [
        (A, False, 1),
        (B, True, 0),
    ]
    kept.add([entry(at=A)])
    row = only(kept.rows([entry(at=A, state=7)]))
    assert [found.address for found in row.endpoints] == [B]
    assert (row.gone.connections, row.total.connections) == (3, 3)


def test_an_endpoint_that_comes_back_goes_on_counting() -> None:
    kept = ledger(make_service("web", A, B))
    kept.add([entry(at=A)])
    for addresses in ((B,), (A, B)):
        kept.follow(frontends(make_service("web", *addresses)))
    assert by_endpoint(only(kept.rows([])))[f"{A}:8080"].connections == 1


def test_an_endpoint_that_is_draining_still_counts() -> None:
    kept = ledger(make_service("web", endpoint(A, ready=False, serving=True, terminating=True), B))
    kept.add([entry(at=A)])  # not usable, since B is: but its connections end only now
    assert (only(kept.rows([])).gone.connections, only(kept.rows([])).total.connections) == (1, 1)


def test_a_service_that_is_deleted_keeps_what_it_had() -> None:
    kept = ledger(make_service("web", A))
    kept.add([entry()])
    kept.follow(frontends())
    kept.add([entry()])  # ended after that
    row = only(kept.rows([entry()]))  # and one that goes on
    assert (row.exists, row.total.connections, row.total.open) == (False, 3, 1)
    kept.follow(frontends(make_service("web", A)))
    assert only(kept.rows([])).total.connections == 2


def test_an_address_belongs_to_who_has_it_now() -> None:
    kept = ledger(make_service("old", A, node_port=30001))
    kept.add([entry(), entry(NODE_IP, 30001)])
    kept.follow(frontends(make_service("new", B, node_port=30001)))
    kept.add([entry(at=B), entry(NODE_IP, 30001, at=B)])
    assert [(row.service, row.total.connections) for row in kept.rows([])] == [("new", 2), ("old", 2)]


def test_swapped_addresses() -> None:
    one, two = "10.96.0.1", "10.96.0.2"
    kept = ledger(make_service("x", A, vip=one), make_service("y", B, vip=two))
    kept.follow(frontends(make_service("x", A, vip=two), make_service("y", B, vip=one)))
    kept.add([entry(one, at=B), entry(one, at=B), entry(two, at=A)])
    assert [(row.service, row.total.connections) for row in kept.rows([])] == [("x", 1), ("y", 2)]


def test_only_what_was_asked_for() -> None:
    kept = ledger(make_service("web", A), make_service("db", B, vip="10.96.0.11"))
    assert [row.service for row in kept.rows([])] == ["db", "web"]
    assert [row.service for row in kept.rows([], namespace="default", service="web")] == ["web"]
    assert kept.rows([], namespace="elsewhere") == ()


def test_only_what_changed_is_looked_at() -> None:
    kept = ledger(make_service("web", A), make_service("db", B, vip="10.96.0.11"))
    service, _ = made = make_service("web", A, vip="10.96.0.12")
    kept.follow(frontends(made, make_service("db", B, vip="10.96.0.11")), changed=[service.name])
    kept.add([entry("10.96.0.12"), entry("10.96.0.11", at=B)])
    assert [row.total.connections for row in kept.rows([])] == [1, 1]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "DEPARTED", 3)
    monkeypatch.setattr(traffic, "GONE", 4)
    monkeypatch.setattr(traffic, "OLD_PLACES", 5)
    kept, ended = Ledger(), 0
    for number in range(40):
        pods = [f"10.244.{number}.{pod}" for pod in range(1, 4)]
        vip = f"10.96.1.{number}"
        kept.follow(
            frontends(make_service("web", *pods, vip=vip), make_service(f"job-{number}", A, vip=f"10.96.2.{number}"))
        )
        kept.add([*(entry(vip, at=pod) for pod in pods), entry(f"10.96.2.{number}")])
        ended += 4
    [*jobs, web] = kept.rows([])
    assert (len(jobs), len(web.endpoints)) == (1 + 4, 3)
    assert web.total.connections == 120
    assert web.total.connections + sum(row.total.connections for row in jobs) + kept.forgotten.connections == ended
    assert len(kept._places) == 5 + 1 + 5
    assert len(kept._ports["default", "web", ""].tallies) == 3 + 3  # type: ignore[index]


NUMBERS = range(4)  # of Services, and of addresses


@dataclass(frozen=True)
class Step:
    """These Services have these addresses (10.96.0.N) and pods; then these connections end: to an address, at a pod."""

    addresses: dict[int, int]
    pods: frozenset[str]
    ended: list[tuple[int, str]]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    pod = st.sampled_from([A, B, C])
    addresses = dict(zip(NUMBERS, draw(st.permutations(NUMBERS)), strict=True))
    present = draw(st.sets(st.sampled_from(NUMBERS)))
    ended = draw(st.lists(st.tuples(st.sampled_from(NUMBERS), pod), max_size=5))
    return Step({name: addresses[name] for name in present}, draw(st.frozensets(pod)), ended)


@given(st.lists(steps(), max_size=8))
def test_nothing_is_lost_and_nothing_counts_twice(history: list[Step]) -> None:
    """Each connection to an address that was ever a Service's is with one Service: the last that had the address."""
    kept, owner, expected = Ledger(), dict[int, int](), Counter[int]()
    for step in history:
        made = (make_service(f"s{name}", *step.pods, vip=f"10.96.0.{vip}") for name, vip in step.addresses.items())
        kept.follow(frontends(*made))
        kept.add([entry(f"10.96.0.{vip}", at=pod) for vip, pod in step.ended])
        owner |= {vip: name for name, vip in step.addresses.items()}
        expected.update(owner[vip] for vip, _ in step.ended if vip in owner)
    rows = kept.rows([])
    assert {int(row.service[1:]): row.total.connections for row in rows if row.total} == expected
    for row in rows:
        total = row.gone.copy()
        for found in row.endpoints:
            total.merge(found.total)
        assert row.total == total
