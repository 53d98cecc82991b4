"""Frontends lowered to chains: the rules as text, and what a packet meets in them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rules.iptables import names
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import MAX_COMMENT, Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, Settings
from rules.trace import Outcome, Packet, trace_packet
from tests.harness.services import SETTINGS, Made, endpoint, make_service, make_snapshot

POD, OTHER_POD, REMOTE_POD, OUTSIDER = "10.244.0.1", "10.244.0.2", "10.244.1.3", "192.0.2.1"
NODE_IP, VIP = "192.0.2.2", "10.96.0.10"
LOCAL = frozenset({NODE_IP, "127.0.0.1"})


def lowered(*made: Made, settings: Settings = SETTINGS, family: Family = Family.IPV4) -> Ruleset:
    return lower_frontends(resolve_frontends(make_snapshot(*made, settings=settings)), family)


def chain(ruleset: Ruleset, name: str, *, table: str = "nat") -> list[str]:
    return [str(rule) for rule in ruleset.table(table).chains[name]]


# The text.

BASE_FILTER = """\
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -m comment --comment "podwire: load balancer source ranges" -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "podwire: refused Services" -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m comment --comment "podwire: Services refused from outside" -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m comment --comment "podwire: what is sent on" -j KUBE-FORWARD
-A INPUT -m comment --comment "podwire: load balancer source ranges" -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "podwire: Services refused from outside" -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m comment --comment "podwire: load balancer source ranges" -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m comment --comment "podwire: refused Services" -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m comment --comment "podwire: Services refused from outside" -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-EXTERNAL-SERVICES ! -d 127.0.0.0/8 -m comment --comment "podwire: NodePorts, on every local address; must be the last rule" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-FORWARD -m comment --comment "podwire: no connection known" -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "podwire: sent on to an endpoint" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "podwire: replies, and the rest of a connection" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-FORWARD -s 10.244.0.0/16 -m comment --comment "podwire: from a pod" -j ACCEPT
-A KUBE-FORWARD -d 10.244.0.0/16 -m comment --comment "podwire: to a pod" -j ACCEPT
COMMIT
"""


def test_the_shared_chains_as_text() -> None:
    text = str(lowered())
    assert text.startswith(BASE_FILTER)
    assert text.endswith("""\
-A KUBE-MARK-MASQ -m comment --comment "podwire: mark for masquerade" -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m comment --comment "podwire: not marked" -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -m comment --comment "podwire: take the mark off" -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "podwire: masquerade what was marked" -j MASQUERADE --random-fully
-A KUBE-SERVICES ! -d 127.0.0.0/8 -m comment --comment "podwire: NodePorts, on every local address; must be the last rule" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
""")


def test_a_service_as_text() -> None:
    ruleset = lowered(make_service("web", POD, endpoint(REMOTE_POD, here=False), node_port=30001))
    svc, ext, sep = "KUBE-SVC-LOLE4ISW44XBNF3G", "KUBE-EXT-LOLE4ISW44XBNF3G", "KUBE-SEP-"
    found = ruleset.nat.chains
    seps = sorted(name for name in found if name.startswith(sep))
    assert len(seps) == 2
    (first,) = (name for name in seps if POD in str(found[name][0]))
    (second,) = (name for name in seps if REMOTE_POD in str(found[name][0]))
    assert chain(ruleset, "KUBE-SERVICES")[0] == (
        f'-d 10.96.0.10/32 -p tcp -m comment --comment "default/web ClusterIP" -m tcp --dport 80 -j {svc}'
    )
    assert chain(ruleset, "KUBE-NODEPORTS") == [
        f'-p tcp -m comment --comment "default/web NodePort" -m tcp --dport 30001 -j {ext}'
    ]
    assert chain(ruleset, ext) == [
        '-m comment --comment "default/web from anyone: masquerade" -j KUBE-MARK-MASQ',
        f'-m comment --comment "default/web from anyone: all endpoints" -j {svc}',
    ]
    assert chain(ruleset, svc) == [
        "! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment"
        ' "default/web ClusterIP: masquerade sources outside the pod network" -m tcp --dport 80 -j KUBE-MARK-MASQ',
        '-m comment --comment "default/web -> 10.244.0.1:8080" -m statistic --mode random'
        f" --probability 0.50000000000 -j {first}",
        f'-m comment --comment "default/web -> 10.244.1.3:8080" -j {second}',
    ]
    assert chain(ruleset, first) == [
        '-s 10.244.0.1/32 -m comment --comment "default/web hairpin: 10.244.0.1 reaches itself" -j KUBE-MARK-MASQ',
        '-p tcp -m comment --comment "default/web -> 10.244.0.1:8080" -m tcp -j DNAT --to-destination 10.244.0.1:8080',
    ]


def test_affinity_as_text() -> None:
    ruleset = lowered(make_service("web", POD, affinity_seconds=100))
    (sep,) = (name for name in ruleset.nat.chains if name.startswith("KUBE-SEP-"))
    clients = sep.replace("KUBE-SEP", "PODWIRE-4")
    assert ruleset.sets == {clients}
    assert chain(ruleset, "KUBE-SVC-LOLE4ISW44XBNF3G")[1:] == [
        f'-m comment --comment "default/web -> 10.244.0.1:8080, as before" -m set --match-set {clients} src -j {sep}',
        f'-m comment --comment "default/web -> 10.244.0.1:8080" -j {sep}',
    ]
    assert chain(ruleset, sep)[1] == (
        '-m comment --comment "default/web remember that the client was sent to 10.244.0.1:8080"'
        f" -j SET --add-set {clients} src --exist --timeout 100"
    )


def test_source_ranges_as_text() -> None:
    made = make_service(
        "web", POD, load_balancer=(LoadBalancerIngress("203.0.113.1"),), source_ranges=("198.51.100.0/24", "0.0.0.0/0")
    )
    ruleset = lowered(made)
    fw, ext = "KUBE-FW-LOLE4ISW44XBNF3G", "KUBE-EXT-LOLE4ISW44XBNF3G"
    comment = '-m comment --comment "default/web load balancer IP: allowed source"'
    assert chain(ruleset, fw) == [
        f"-s 198.51.100.0/24 {comment} -j {ext}",
        f"{comment} -j {ext}",  # everybody is no condition
        f"-s 203.0.113.1/32 {comment} -j {ext}",
    ]
    assert chain(ruleset, "KUBE-PROXY-FIREWALL", table="filter") == [
        '-d 203.0.113.1/32 -p tcp -m comment --comment "default/web sources not in loadBalancerSourceRanges"'
        " -m tcp --dport 80 -j DROP"
    ]


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [("TCP", "tcp-reset"), ("UDP", "icmp-port-unreachable"), ("SCTP", "icmp-port-unreachable")],
)
def test_refusals_as_text(protocol: str, answer: str) -> None:
    small = protocol.lower()
    ruleset = lowered(make_service("web", protocol=protocol, node_port=30001))
    assert chain(ruleset, "KUBE-SERVICES", table="filter") == [
        f'-d 10.96.0.10/32 -p {small} -m comment --comment "default/web ClusterIP has no endpoints"'
        f" -m {small} --dport 80 -j REJECT --reject-with {answer}"
    ]
    assert chain(ruleset, "KUBE-NODEPORTS", table="filter") == [
        f'-p {small} -m comment --comment "default/web NodePort has no endpoints"'
        f" -m {small} --dport 30001 -j REJECT --reject-with {answer}"
    ]
    assert chain(ruleset, "KUBE-EXTERNAL-SERVICES", table="filter")[-1].endswith("-j KUBE-NODEPORTS")


def test_ipv6() -> None:
    settings = Settings(cluster_cidrs=("fd00:244::/64", "10.244.0.0/16"))
    made = make_service("web", "fd00:244::1", vip="fd00:96::a")
    ruleset = lowered(
        made, make_service("none", vip="fd00:96::b", protocol="UDP"), settings=settings, family=Family.IPV6
    )
    text = str(ruleset)
    assert "-j DNAT --to-destination [fd00:244::1]:8080" in text
    assert "-j REJECT --reject-with icmp6-port-unreachable" in text
    assert "! -d ::1/128" in text
    assert "10.244." not in text


def test_every_rule_has_a_comment_that_the_kernel_takes() -> None:
    service, slices = make_service("x" * 300, POD, vip="10.96.0.10", node_port=30001, affinity_seconds=5)
    for table in (lowered((service, slices)).nat, lowered((service, slices)).filter):
        for rules in (*table.chains.values(), *table.jumps.values()):
            assert all(0 < len(rule.comment) <= MAX_COMMENT for rule in rules)


# What a packet meets.


def go(
    ruleset: Ruleset, source: str, destination: str = VIP, port: int = 80, protocol: str = "tcp"
) -> tuple[Outcome, ...]:
    """The ways of a connection; one that comes from the node's own address is the node's."""
    packet = Packet(source, destination, port, protocol, local=LOCAL, from_node=source in LOCAL)
    return trace_packet(ruleset, packet)


def one(outcomes: tuple[Outcome, ...]) -> tuple[str, str, bool]:
    (found,) = outcomes
    return found.verdict, found.endpoint, found.masqueraded


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30, 32, 33, 34, 100, 300])
def test_endpoints_are_chosen_evenly(count: int) -> None:
    """One list up to 32, a tree of chains above: the same chance for each."""
    addresses = [f"10.244.{number // 250}.{number % 250 + 2}" for number in range(count)]
    ruleset = lowered(make_service("web", *addresses))
    assert any(name.startswith("PODWIRE-B-") for name in ruleset.nat.chains) == (count > 32)
    outcomes = go(ruleset, POD)
    assert sorted(outcome.endpoint for outcome in outcomes) == sorted(f"{address}:8080" for address in addresses)
    assert all(outcome.probability == pytest.approx(1 / count, rel=1e-6) for outcome in outcomes)


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_many_endpoints_are_chosen_evenly_in_either_pool(policy: str) -> None:
    """The two choices share their endpoints' chains, and nothing else."""
    here = [endpoint(f"10.244.0.{number + 2}") for number in range(50)]
    afar = [endpoint(f"10.244.1.{number + 2}", here=False) for number in range(40)]
    made = make_service("web", *here, *afar, node_port=30001, external_traffic_policy=policy)
    ruleset = lowered(made)
    outside, inside = go(ruleset, OUTSIDER, NODE_IP, 30001), go(ruleset, POD)
    expected = 50 if policy == "Local" else 90
    assert (len(outside), len(inside)) == (expected, 90)
    assert all(o.probability == pytest.approx(1 / expected, rel=1e-6) for o in outside)
    assert all(o.probability == pytest.approx(1 / 90, rel=1e-6) for o in inside)


def test_the_choice_is_even_however_unlucky_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most endpoints in one branch of a branch; a node with one child only has no chain."""
    keys = {f"10.244.0.{n + 2}:8080": f"{'b' if n == 0 else 'a7'}{n:014x}" for n in range(45)}
    monkeypatch.setattr(names, "endpoint_key", lambda port, protocol, endpoint: keys[endpoint])
    ruleset = lowered(make_service("web", *(key.split(":")[0] for key in keys)))
    outcomes = go(ruleset, POD)
    assert {outcome.endpoint for outcome in outcomes} == set(keys)
    assert all(outcome.probability == pytest.approx(1 / 45, rel=1e-6) for outcome in outcomes)
    assert sum(name.startswith("PODWIRE-B-") for name in ruleset.nat.chains) == 5  # b; a7 and its three


def test_no_packet_walks_past_many_rules() -> None:
    """300 endpoints: a few short chains, whichever it is going to be."""
    addresses = [f"10.244.{number // 250}.{number % 250 + 2}" for number in range(300)]
    ruleset = lowered(make_service("web", *addresses))
    assert all(len(rules) <= 33 for rules in ruleset.nat.chains.values())  # 32, and one for masquerade
    for outcome in go(ruleset, POD):
        way = [step.chain for step in outcome.steps if step.hook == "PREROUTING"]
        assert len(way) <= 6, way  # PREROUTING, KUBE-SERVICES, KUBE-SVC, two branches, KUBE-SEP


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_client_that_is_known_goes_where_it_went(count: int) -> None:
    addresses = [f"10.244.0.{number + 2}" for number in range(count)]
    ruleset = lowered(make_service("web", *addresses, affinity_seconds=60, node_port=30001))
    assert len(ruleset.sets) == count
    for clients in ruleset.sets:
        for place in ((VIP, 80), (NODE_IP, 30001)):  # by whatever address it calls
            packet = Packet(OUTSIDER, *place, local=LOCAL, member_of=frozenset({clients}))
            (outcome,) = trace_packet(ruleset, packet)
            assert outcome.probability == 1
            (remembered,) = (step.rule for step in outcome.steps if step.rule.target == "SET")
            assert f"--add-set {clients} " in remembered.text  # and stays known
    strangers = go(ruleset, OUTSIDER)
    assert len(strangers) == count
    assert all(outcome.probability == pytest.approx(1 / count) for outcome in strangers)


TARGET = f"{OTHER_POD}:8080"


@pytest.mark.parametrize(
    ("source", "destination", "port", "expected"),
    [
        (POD, VIP, 80, ("ACCEPT", TARGET, False)),  # a pod keeps its address
        (OTHER_POD, VIP, 80, ("ACCEPT", TARGET, True)),  # hairpin
        (NODE_IP, VIP, 80, ("ACCEPT", TARGET, True)),  # not a pod
        (OUTSIDER, VIP, 80, ("ACCEPT", TARGET, True)),
        (OUTSIDER, NODE_IP, 30001, ("ACCEPT", TARGET, True)),
        (NODE_IP, NODE_IP, 30001, ("ACCEPT", TARGET, True)),
        (POD, NODE_IP, 30001, ("ACCEPT", TARGET, True)),
        (POD, VIP, 81, ("ACCEPT", "", False)),  # not ours
        (OUTSIDER, NODE_IP, 80, ("ACCEPT", "", False)),
        ("127.0.0.1", "127.0.0.1", 30001, ("ACCEPT", "", False)),  # off unless asked for
    ],
)
def test_cluster_policy(source: str, destination: str, port: int, expected: tuple[str, str, bool]) -> None:
    ruleset = lowered(make_service("web", OTHER_POD, node_port=30001))
    assert one(go(ruleset, source, destination, port)) == expected


def test_node_ports_on_loopback_if_asked_for() -> None:
    ruleset = lowered(make_service("web", POD, node_port=30001), settings=replace(SETTINGS, localhost_node_ports=True))
    assert one(go(ruleset, "127.0.0.1", "127.0.0.1", 30001)) == ("ACCEPT", f"{POD}:8080", True)


@pytest.mark.parametrize(
    ("addresses", "served"), [(("192.0.2.0/24",), True), (("198.51.100.0/24",), False), (("primary",), True)]
)
def test_node_port_addresses(addresses: tuple[str, ...], served: bool) -> None:
    ruleset = lowered(make_service("web", POD, node_port=30001), settings=Settings(node_port_addresses=addresses))
    assert bool(one(go(ruleset, OUTSIDER, NODE_IP, 30001))[1]) == served


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (OUTSIDER, {("ACCEPT", f"{POD}:8080", False)}),  # the client's address is kept
        (OTHER_POD, {("ACCEPT", f"{POD}:8080", False), ("ACCEPT", f"{REMOTE_POD}:8080", False)}),
        (NODE_IP, {("ACCEPT", f"{POD}:8080", True), ("ACCEPT", f"{REMOTE_POD}:8080", True)}),
    ],
)
def test_external_policy_local(source: str, expected: set[tuple[str, str, bool]]) -> None:
    made = make_service("web", POD, endpoint(REMOTE_POD, here=False), node_port=30001, external_traffic_policy="Local")
    outcomes = go(lowered(made), source, NODE_IP, 30001)
    assert {(outcome.verdict, outcome.endpoint, outcome.masqueraded) for outcome in outcomes} == expected


@pytest.mark.parametrize(
    ("source", "destination", "port", "expected"),
    [
        (OUTSIDER, NODE_IP, 30001, ("DROP", "", False)),
        (OUTSIDER, "198.51.100.1", 80, ("DROP", "", False)),
        (POD, NODE_IP, 30001, ("ACCEPT", f"{REMOTE_POD}:8080", False)),
        (NODE_IP, NODE_IP, 30001, ("ACCEPT", f"{REMOTE_POD}:8080", True)),
        (POD, VIP, 80, ("ACCEPT", f"{REMOTE_POD}:8080", False)),  # the ClusterIP is another matter
    ],
)
def test_external_policy_local_without_local_endpoints(
    source: str, destination: str, port: int, expected: tuple[str, str, bool]
) -> None:
    made = make_service(
        "web",
        endpoint(REMOTE_POD, here=False),
        node_port=30001,
        external_ips=("198.51.100.1",),
        external_traffic_policy="Local",
    )
    assert one(go(lowered(made), source, destination, port)) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [([endpoint(POD)], ("ACCEPT", f"{POD}:8080", True)), ([endpoint(REMOTE_POD, here=False)], ("DROP", "", False))],
)
def test_internal_policy_local(endpoints: list[object], expected: tuple[str, str, bool]) -> None:
    made = make_service("web", *endpoints, internal_traffic_policy="Local")  # type: ignore[arg-type]
    assert one(go(lowered(made), OUTSIDER)) == expected


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
@pytest.mark.parametrize("source", [POD, OUTSIDER, NODE_IP])
@pytest.mark.parametrize("place", [(VIP, 80), (NODE_IP, 30001), ("198.51.100.1", 80), ("203.0.113.1", 80)])
def test_no_endpoints_is_a_refusal_everywhere(protocol: str, source: str, place: tuple[str, int]) -> None:
    made = make_service(
        "web",
        protocol=protocol,
        node_port=30001,
        external_ips=("198.51.100.1",),
        load_balancer=(LoadBalancerIngress("203.0.113.1"),),
    )
    assert one(go(lowered(made), source, *place, protocol.lower())) == ("REJECT", "", False)


@pytest.mark.parametrize(
    ("source", "port", "verdict"),
    [("198.51.100.7", 80, "ACCEPT"), (OUTSIDER, 80, "DROP"), (POD, 80, "DROP"), (OUTSIDER, 81, "ACCEPT")],
)
def test_source_ranges(source: str, port: int, verdict: str) -> None:
    made = make_service(
        "web",
        OTHER_POD,
        node_port=30001,
        external_ips=("198.51.100.1",),
        load_balancer=(LoadBalancerIngress("203.0.113.1"),),
        source_ranges=("198.51.100.0/24",),
    )
    ruleset = lowered(made)
    found, endpoint_, _ = one(go(ruleset, source, "203.0.113.1", port))
    assert (found, bool(endpoint_)) == (verdict, verdict == "ACCEPT" and port == 80)
    for place in ((NODE_IP, 30001), ("198.51.100.1", 80)):  # these are not filtered
        assert one(go(ruleset, source, *place))[1] == TARGET


def test_several_pod_networks_are_all_inside() -> None:
    settings = Settings(cluster_cidrs=("10.244.0.0/16", "10.245.0.0/16"))
    ruleset = lowered(make_service("web", OTHER_POD), settings=settings)
    assert one(go(ruleset, POD)) == ("ACCEPT", TARGET, False)
    assert one(go(ruleset, "10.245.0.9")) == ("ACCEPT", TARGET, False)
    assert one(go(ruleset, OUTSIDER)) == ("ACCEPT", TARGET, True)


def test_masquerade_all() -> None:
    ruleset = lowered(make_service("web", OTHER_POD), settings=replace(SETTINGS, masquerade_all=True))
    assert one(go(ruleset, POD)) == ("ACCEPT", TARGET, True)


@pytest.mark.parametrize(
    ("source", "destination", "out", "masqueraded"),
    [
        (POD, "198.51.100.9", "eth0", True),
        (POD, REMOTE_POD, "eth0", False),  # another node's pod sees who calls
        (POD, "198.51.100.9", "podwire0", False),
        (OUTSIDER, "198.51.100.9", "eth0", False),
        (REMOTE_POD, "198.51.100.9", "eth0", False),  # its own node's business
    ],
)
def test_egress(source: str, destination: str, out: str, masqueraded: bool) -> None:
    settings = replace(SETTINGS, egress_cidrs=("10.244.0.0/24",), pod_bridge="podwire0")
    packet = Packet(source, destination, 443, local=LOCAL, out=out)
    (outcome,) = trace_packet(lowered(settings=settings), packet)
    assert outcome.masqueraded == masqueraded


def test_egress_without_a_bridge_or_a_wider_pod_network() -> None:
    ruleset = lowered(settings=Settings(egress_cidrs=("10.244.0.0/24",)))
    assert [str(rule) for rule in ruleset.nat.chains["PODWIRE-EGRESS"]] == [
        '-d 10.244.0.0/24 -m comment --comment "podwire: stays in the pod network" -j RETURN',
        '-s 10.244.0.0/24 -m comment --comment "podwire: leaves with the node\\\'s address"'
        " -j MASQUERADE --random-fully",
    ]
