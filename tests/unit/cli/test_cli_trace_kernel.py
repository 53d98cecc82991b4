"""What the kernel tells of a packet, and whether that is what was predicted."""

from __future__ import annotations

import struct

import pytest

from agent.cli.tracing.kernel import Event, Flow, decode, render_table
from agent.cli.tracing.live import Hop, compare, compare_counters, first_packet
from rules.iptables.listing import Listing, parse_listing
from rules.iptables.parse import parse_rule
from rules.snapshot import Family
from rules.trace import Outcome, Step


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind: int, *attributes: bytes, family: int = 2) -> bytes:
    body = struct.pack(">BBH", family, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def nft(
    kind: int, *, handle: int = 0, verdict: int | None = None, policy: int | None = None, table: str = "nat"
) -> bytes:
    parts = [attribute(1, table.encode() + b"\0"), attribute(2, b"KUBE-SERVICES\0"), attribute(4, number(kind))]
    if handle:
        parts.append(attribute(3, number(handle, 8)))
    if verdict is not None:
        parts.append(attribute(5 | 0x8000, attribute(1, number(verdict))))
    if policy is not None:
        parts.append(attribute(16, number(policy)))
    return message((10 << 8) | 17, *parts, attribute(15, number(2)))


def log(prefix: str, *, family: int = 2) -> bytes:
    return message(4 << 8, attribute(10, prefix.encode() + b"\0"), family=family)


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (nft(3, handle=7, verdict=2**32 - 3), [Event("nft", "nat", "KUBE-SERVICES", "rule", 7)]),
        (nft(3, handle=7, verdict=0), [Event("nft", "nat", "KUBE-SERVICES", "rule", 7, drop=True)]),
        (nft(3), [Event("nft", "nat", "KUBE-SERVICES", "return")]),
        (nft(2, handle=9), [Event("nft", "nat", "KUBE-SERVICES", "return", 9)]),
        (nft(1, policy=1), [Event("nft", "nat", "KUBE-SERVICES", "policy")]),
        (nft(1, policy=0), [Event("nft", "nat", "KUBE-SERVICES", "policy", drop=True)]),
        (nft(9), []),
        (log("TRACE: nat:KUBE-SVC-A:rule:12 "), [Event("legacy", "nat", "KUBE-SVC-A", "rule", 12)]),
        (log("TRACE: nat:odd:name:rule:1 ", family=10), [Event("legacy", "nat", "odd:name", "rule", 1, family="ip6")]),
        (log("TRACE: filter:FORWARD:policy:3 "), [Event("legacy", "filter", "FORWARD", "policy", 3)]),
        (log("somebody's own: a:b:rule:1"), []),
        (log("TRACE: short"), []),
        (log("TRACE: a:b:unknown:1"), []),
        (message(99, attribute(1, b"x")), []),
        (b"", []),
        (struct.pack("=IHHII", 3, 0, 0, 0, 0), []),
        (message((10 << 8) | 17, b"\x01\0\0\0"), []),
        (nft(3, handle=7) + nft(1, policy=1), [Event("nft", "nat", "KUBE-SERVICES", "rule", 7), Event("nft", "nat", "KUBE-SERVICES", "policy")]),
    ],
)  # fmt: skip
def test_messages(data: bytes, events: list[Event]) -> None:
    assert list(decode(data)) == events


def test_only_one_flow_is_marked_and_only_what_opens_it() -> None:
    text = render_table(Flow(Family.IPV4, "tcp", "10.244.0.2", 40000))
    assert "ip saddr 10.244.0.2 tcp sport 40000 tcp flags & (syn | ack) == syn meta nftrace set 1" in text
    assert text.startswith("add table ip podwire-trace\ndelete table ip podwire-trace\n")
    text = render_table(Flow(Family.IPV6, "udp", "fd00::1", 40000))
    assert "ip6 saddr fd00::1 udp sport 40000 meta nftrace set 1" in text


JUMP = parse_rule('-m comment --comment "podwire: Services" -j KUBE-SERVICES')
A, B = parse_rule("-d 10.96.0.1/32 -j KUBE-SEP-A"), parse_rule("-d 10.96.0.1/32 -j KUBE-SEP-B")


def step(chain: str, rule: str | object) -> Step:
    return Step("nat", chain, rule, "PREROUTING")  # type: ignore[arg-type]


def event(chain: str, *, kind: str = "rule", drop: bool = False, table: str = "nat") -> Event:
    return Event("nft", table, chain, kind, 1, drop)  # type: ignore[arg-type]


JUMPED = Hop(event("PREROUTING"), JUMP)
WENT_A, WENT_B = (Hop(event("KUBE-SERVICES"), rule) for rule in (A, B))
EXPECTED = [
    Outcome(0.5, "ACCEPT", "10.244.0.1:80", False, (step("PREROUTING", JUMP), step("KUBE-SERVICES", rule)))
    for rule in (A, B)
]


def test_a_way_that_was_predicted() -> None:
    end = Hop(event("KUBE-SERVICES", kind="return"), None)
    foreign = Hop(event("PREROUTING", table="mangle"), parse_rule("-j MARK --set-xmark 0x1/0x1"))
    sighting = compare("connected", (foreign, JUMPED, WENT_B, end), EXPECTED)
    assert (sighting.matched, sighting.difference) == (EXPECTED[1], "")


def test_ways_that_were_not() -> None:
    other = Hop(event("KUBE-SERVICES"), parse_rule("-j KUBE-SEP-C"))
    sighting = compare("refused", (JUMPED, other), EXPECTED)
    assert (sighting.matched, sighting.difference) == (
        None,
        "as predicted for 1 of its steps, then it met nat KUBE-SERVICES: -j KUBE-SEP-C",
    )
    assert compare("refused", (JUMPED,), EXPECTED).difference == "as predicted for 1 of its steps, and then no further"
    assert "did not reach the node's netfilter" in compare("no answer", (), EXPECTED).difference


@pytest.mark.parametrize(
    "end",
    [
        Hop(event("FORWARD", table="filter"), parse_rule("-d 10.244.0.1/32 -j DROP")),
        Hop(event("FORWARD", table="filter", drop=True), parse_rule("-d 10.244.0.1/32 -j DOCKER")),
        Hop(event("FORWARD", kind="policy", table="filter", drop=True), None),
        Hop(Event("nft", "firewall", "forward", "rule", 4, drop=True, family="inet"), None),
    ],
)
def test_somebody_else_puts_an_end_to_it(end: Hop) -> None:
    sighting = compare("no answer", (JUMPED, WENT_A, end), EXPECTED)
    assert sighting.matched is None
    assert sighting.difference == f"a rule that is not podwire's put an end to it: {end}"


def test_our_own_refusals_are_predictions_too() -> None:
    refusing = parse_rule("-d 10.96.0.1/32 -p tcp -j REJECT --reject-with tcp-reset")
    steps = (Step("filter", "KUBE-SERVICES", refusing, "FORWARD"),)
    expected = [Outcome(1.0, "REJECT", "", False, steps)]
    hop = Hop(event("KUBE-SERVICES", table="filter", drop=True), refusing)
    assert compare("refused", (hop,), expected).matched == expected[0]


def test_only_the_first_packet_counts() -> None:
    first, second = event("PREROUTING"), event("KUBE-SERVICES")
    mark = event("prerouting", table="podwire-trace")
    other = Event("legacy", "nat", "PREROUTING", "rule", 1)
    assert first_packet([mark, first, other, second, mark, first, second], "nft") == (first, second)
    assert first_packet([mark, other], "nft") == ()


def counts(*packets: int) -> Listing:
    """Counters of the jump, of A and of B."""
    names = (("PREROUTING", JUMP), ("KUBE-SERVICES", A), ("KUBE-SERVICES", B))
    lines = [f"[{number}:0] -A {chain} {rule}" for (chain, rule), number in zip(names, packets, strict=True)]
    return parse_listing("\n".join(["*nat", *lines, "COMMIT"]))


def test_counters_tell_where_nobody_can_listen() -> None:
    assert compare_counters("connected", counts(1, 1, 1), counts(2, 1, 2), EXPECTED).matched == EXPECTED[1]
    nowhere = compare_counters("refused", counts(1, 1, 1), counts(2, 1, 1), EXPECTED)
    assert (nowhere.matched, nowhere.by) == (None, "counters")
    assert "no predicted way" in nowhere.difference


def test_hops_read_like_rules() -> None:
    assert str(WENT_A) == "nat KUBE-SERVICES: -d 10.96.0.1/32 -j KUBE-SEP-A"
    assert str(Hop(event("FORWARD", kind="policy", drop=True, table="filter"), None)) == "filter FORWARD: policy drop"
    assert (
        str(Hop(Event("nft", "firewall", "forward", "rule", 4, family="inet"), None))
        == "inet firewall forward: rule with handle 4"
    )
