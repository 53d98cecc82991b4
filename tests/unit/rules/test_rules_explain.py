"""What is told of a packet's path, and the object fields behind it."""

from __future__ import annotations

from typing import Any

import pytest

from rules.explain import Branch, explain, percent
from rules.iptables.lower import lower_frontends
from rules.iptables.parse import parse_ruleset
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, Settings, Snapshot
from rules.trace import Packet, trace_packet
from tests.harness.services import SETTINGS, Made, endpoint, make_service, make_snapshot

NODE, OUTSIDE, VIP = "192.0.2.2", "192.0.2.1", "10.96.0.10"
A, B = "10.244.0.1", "10.244.0.2"
FAR = endpoint("10.244.1.3", here=False)
LOCAL = frozenset({NODE, "10.244.0.254"})
LOAD_BALANCER: dict[str, Any] = {
    "load_balancer": (LoadBalancerIngress("203.0.113.4", "Proxy"), LoadBalancerIngress("203.0.113.5")),
    "source_ranges": ("192.0.2.0/25", "10.0.0.0/24"),
}


def web(*endpoints: Any, **fields: Any) -> Made:
    return make_service("web", *endpoints, node_port=30080, port_name="http", **fields)


def tell(
    source: str,
    destination: str,
    port: int,
    *made: Made,
    settings: Settings = SETTINGS,
    ruleset: Ruleset | None = None,
    known: dict[str, str] | None = None,
    **packet: Any,
) -> tuple[Branch, ...]:
    snapshot: Snapshot = make_snapshot(*made, settings=settings)
    frontends = resolve_frontends(snapshot)
    family = Family.IPV6 if ":" in destination else Family.IPV4
    found = Packet(source, destination, port, local=LOCAL, from_node=source in LOCAL, **packet)
    outcomes = trace_packet(ruleset or lower_frontends(frontends, family), found)
    return explain(found, outcomes, frontends=frontends, snapshot=snapshot, known=known)


def words(branch: Branch) -> list[str]:
    before, after = ([sentence.text for sentence in part] for part in (branch.sentences, branch.after))
    return [*before, *([branch.choice] if branch.choice else []), *after]


def only(branches: tuple[Branch, ...]) -> list[str]:
    (branch,) = branches
    return words(branch)


IS_CLUSTER_IP = "10.96.0.10:80/TCP is the ClusterIP of default/web, port http (spec.clusterIP, spec.ports[0])"
IS_NODE_PORT = (
    "192.0.2.2:30080/TCP is this node's own address and the NodePort of default/web, port http (spec.ports[0].nodePort)"
)
IS_BALANCER = (
    "203.0.113.5:80/TCP is a load balancer IP of default/web, port http (status.loadBalancer.ingress[1], spec.ports[0])"
)
CLUSTER = (
    "masqueraded: externalTrafficPolicy is Cluster, so the endpoint sees the node's address and answers through it"
)
MARKED = "leaves with the node's address as its source, because it was marked"
FORWARDED = "FORWARD lets it through: sent on to an endpoint"


def kept(source: str) -> str:
    return f"leaves with its own source address, {source}"


def test_a_pod_and_a_cluster_ip_with_a_hairpin() -> None:
    others, itself = tell(A, VIP, 80, web(A, B, FAR))
    assert words(others) == [
        IS_CLUSTER_IP,
        "one of 2 endpoints, 33.3 % each",
        "FORWARD lets it through: from a pod",
        kept(A),
    ]
    assert [(ending.endpoint, ending.who) for ending in others.endings] == [
        ("10.244.0.2:8080", ""),
        ("10.244.1.3:8080", ""),
    ]
    assert others.result == f"the endpoint sees {A} as the client"
    assert words(itself) == [
        IS_CLUSTER_IP,
        "one endpoint, 33.3 %",
        "masqueraded: the endpoint is the client itself (hairpin), and its answer must pass this node",
        FORWARDED,
        MARKED,
    ]
    assert itself.endings[0].who == "the client itself"
    assert itself.result == "the endpoint sees the node's address as the client"
    assert (others.probability, itself.probability) == pytest.approx((2 / 3, 1 / 3))


def test_sentences_hold_the_rules_that_they_speak_of() -> None:
    (branch,) = tell(OUTSIDE, NODE, 30080, web(A))
    assert [[(step.chain[:9], step.rule.target[:9]) for step in sentence.steps] for sentence in branch.sentences] == [
        [("PREROUTIN", "KUBE-SERV"), ("KUBE-SERV", "KUBE-NODE"), ("KUBE-NODE", "KUBE-EXT-")],
        [("KUBE-EXT-", "KUBE-MARK"), ("KUBE-MARK", "MARK"), ("KUBE-EXT-", "KUBE-SVC-")],
    ]
    assert [(step.chain[:9], step.rule.target[:9]) for step in branch.endings[0].steps] == [
        ("KUBE-SVC-", "KUBE-SEP-"),
        ("KUBE-SEP-", "DNAT"),
    ]
    told = [step for part in (branch.sentences, branch.endings, branch.after) for item in part for step in item.steps]
    (outcome,) = branch.outcomes
    assert sorted(told, key=str) == sorted(outcome.steps, key=str)


OUTSIDERS = f"masqueraded: {OUTSIDE} is outside the pod network (10.244.0.0/16), and the answer must pass here"
TWO = Settings(cluster_cidrs=("10.244.0.0/16", "10.245.0.0/16"))
ALL = Settings(cluster_cidrs=("10.244.0.0/16",), masquerade_all=True)


@pytest.mark.parametrize(
    ("source", "destination", "port", "service", "settings", "expected"),
    [
        (OUTSIDE, VIP, 80, web(A), SETTINGS, [IS_CLUSTER_IP, OUTSIDERS, "the only endpoint", FORWARDED, MARKED]),
        (OUTSIDE, VIP, 80, web(A), TWO, [IS_CLUSTER_IP, OUTSIDERS.replace("/16)", "/16, 10.245.0.0/16)"), "the only endpoint", FORWARDED, MARKED]),
        (B, VIP, 80, web(A), ALL, [IS_CLUSTER_IP, "masqueraded: the proxy was told to hide every client (masqueradeAll)", "the only endpoint", FORWARDED, MARKED]),
        (B, VIP, 80, web(A, FAR, internal_traffic_policy="Local"), SETTINGS, [
            f"{IS_CLUSTER_IP}; internalTrafficPolicy is Local: only endpoints on this node count",
            "the only endpoint", "FORWARD lets it through: from a pod", kept(B)]),
        (OUTSIDE, NODE, 30080, web(A, B), SETTINGS, [IS_NODE_PORT, CLUSTER, "one of 2 endpoints, 50 % each", FORWARDED, MARKED]),
        (OUTSIDE, NODE, 30080, web(A, FAR, external_traffic_policy="Local"), SETTINGS, [
            IS_NODE_PORT, "externalTrafficPolicy is Local: only endpoints on this node count, and the client's address is kept",
            "the only endpoint", "FORWARD lets it through: to a pod", kept(OUTSIDE)]),
        (NODE, NODE, 30080, web(A, FAR, external_traffic_policy="Local"), SETTINGS, [
            IS_NODE_PORT, "masqueraded: it comes from this node itself, with the address that it was sent to",
            "externalTrafficPolicy is Local, but this node itself is no outsider: all endpoints count",
            "one of 2 endpoints, 50 % each", MARKED]),
        (B, NODE, 30080, web(FAR, external_traffic_policy="Local"), SETTINGS, [
            IS_NODE_PORT, "externalTrafficPolicy is Local, but a pod is no outsider: all endpoints count, and its address is kept",
            "the only endpoint", "FORWARD lets it through: from a pod", kept(B)]),
        (OUTSIDE, NODE, 30080, web(FAR, external_traffic_policy="Local"), SETTINGS, [
            IS_NODE_PORT, "dropped: externalTrafficPolicy is Local and this node has no endpoint; 1 usable endpoint elsewhere"]),
        (B, VIP, 80, web(FAR, endpoint("10.244.1.4", here=False), internal_traffic_policy="Local"), SETTINGS, [
            IS_CLUSTER_IP, "dropped: internalTrafficPolicy is Local and this node has no endpoint; 2 usable endpoints elsewhere"]),
        (B, VIP, 80, web(endpoint(A, ready=False), endpoint(B, ready=False)), SETTINGS, [IS_CLUSTER_IP, "refused: default/web has no ready endpoint (2 not ready)"]),
        (B, VIP, 80, web(), SETTINGS, [IS_CLUSTER_IP, "refused: default/web has no ready endpoint (its EndpointSlices have none for this port)"]),
        (OUTSIDE, "203.0.113.5", 80, web(A, **LOAD_BALANCER), SETTINGS, [
            IS_BALANCER, f"{OUTSIDE} may connect: spec.loadBalancerSourceRanges has 192.0.2.0/25", CLUSTER,
            "the only endpoint", FORWARDED, MARKED]),
        (OUTSIDE, "203.0.113.5", 80, web(A, load_balancer=LOAD_BALANCER["load_balancer"], source_ranges=("0.0.0.0/0",)), SETTINGS, [
            IS_BALANCER, f"{OUTSIDE} may connect: spec.loadBalancerSourceRanges has everywhere", CLUSTER,
            "the only endpoint", FORWARDED, MARKED]),
        ("198.51.100.1", "203.0.113.5", 80, web(A, **LOAD_BALANCER), SETTINGS, [
            IS_BALANCER, "dropped: 198.51.100.1 is in none of spec.loadBalancerSourceRanges (192.0.2.0/25, 10.0.0.0/24)"]),
        (OUTSIDE, "198.51.100.9", 80, web(A, external_ips=("bad", "198.51.100.009")), SETTINGS, [
            "198.51.100.9:80/TCP is an external IP of default/web, port http (spec.externalIPs[1], spec.ports[0])",
            CLUSTER, "the only endpoint", FORWARDED, MARKED]),
        (OUTSIDE, VIP, 80, web(NODE), SETTINGS, [
            IS_CLUSTER_IP, OUTSIDERS.replace("masqueraded", "marked for masquerade"), "the only endpoint",
            f"ends at this node, so its source stays as it is: {OUTSIDE}"]),
        (B, VIP, 80, web(endpoint(A, ready=False, serving=True, terminating=True)), SETTINGS, [
            IS_CLUSTER_IP, "no endpoint is ready: those that still serve while they terminate are used",
            "the only endpoint", "FORWARD lets it through: from a pod", kept(B)]),
        (B, VIP, 80, web(endpoint(A, zone_hints=("east",)), endpoint("10.244.1.3", here=False, zone_hints=("west",))), SETTINGS, [
            IS_CLUSTER_IP, "topology hints: 1 of 2 ready endpoints are meant for this node or zone",
            "the only endpoint", "FORWARD lets it through: from a pod", kept(B)]),
    ],
)  # fmt: skip
def test_one_path(
    source: str, destination: str, port: int, service: Made, settings: Settings, expected: list[str]
) -> None:
    assert only(tell(source, destination, port, service, settings=settings)) == expected


def test_topology_is_no_matter_of_local_endpoints() -> None:
    made = web(endpoint(A, zone_hints=("west",)), endpoint("10.244.1.3", here=False, zone_hints=("east",)),
               external_traffic_policy="Local")  # fmt: skip
    assert not any("topology" in text for text in only(tell(OUTSIDE, NODE, 30080, made)))


def test_without_slices() -> None:
    service, _ = web()
    assert (
        only(tell(B, VIP, 80, (service, ())))[-1]
        == "refused: default/web has no ready endpoint (its EndpointSlices have none for this port)"
    )
    snapshot = Snapshot(make_snapshot().node, SETTINGS, {service.name: service})
    frontends = resolve_frontends(snapshot)
    packet = Packet(B, VIP, 80)
    outcomes = trace_packet(lower_frontends(frontends, Family.IPV4), packet)
    assert only(explain(packet, outcomes, frontends=frontends, snapshot=snapshot))[-1].endswith(
        "(it has no EndpointSlice)"
    )


@pytest.mark.parametrize(
    ("source", "destination", "port", "first", "result"),
    [
        (B, "10.96.0.99", 80, "not a Service: no rule of ours translates this address", "it goes where it was sent"),
        (B, VIP, 81, "10.96.0.10 is the ClusterIP of default/web, but 81/TCP is no port of it (it has 80/TCP)", "it goes where it was sent"),
        (OUTSIDE, NODE, 81, "192.0.2.2:81/TCP is no NodePort: it is for this node itself, and whoever listens there gets it", "it is for this node itself"),
        (B, "10.244.1.9", 80, "not a Service: 10.244.1.9 is pod default/db, here, and no rule of ours translates that", "it goes where it was sent"),
        (B, "198.51.100.7", 30080, "not a Service: no rule of ours translates this address", "it goes where it was sent"),
        (B, "127.0.0.1", 30080, "127.0.0.1:30080/TCP is no NodePort: it is for this node itself, and whoever listens there gets it", "it is for this node itself"),
    ],
)  # fmt: skip
def test_what_is_no_service(source: str, destination: str, port: int, first: str, result: str) -> None:
    (branch,) = tell(source, destination, port, web(A), known={"10.244.1.9": "pod default/db, here"})
    assert (words(branch)[0], branch.result) == (first, result)


def test_health_check_ports() -> None:
    made = web(A, external_traffic_policy="Local", health_check_node_port=32000)
    expected = "192.0.2.2:32000/TCP is the health check port of default/web (spec.healthCheckNodePort): the proxy itself answers"
    assert only(tell(OUTSIDE, NODE, 32000, made))[0] == expected
    assert "not a Service" in only(tell(OUTSIDE, "192.0.2.9", 32000, made))[0]
    assert "is no NodePort" in only(tell(OUTSIDE, NODE, 32000, made, protocol="udp"))[0]


def test_node_ports_listen_where_they_were_told_to() -> None:
    settings = Settings(cluster_cidrs=SETTINGS.cluster_cidrs, node_port_addresses=("10.244.0.0/16",))
    assert "is no NodePort" in only(tell(OUTSIDE, NODE, 30080, web(A), settings=settings))[0]
    assert "the NodePort of" in only(tell(OUTSIDE, "10.244.0.254", 30080, web(A), settings=settings))[0]
    on_loopback = Settings(cluster_cidrs=SETTINGS.cluster_cidrs, localhost_node_ports=True)
    local = frozenset({"127.0.0.1", *LOCAL})
    snapshot = make_snapshot(web(A), settings=on_loopback)
    frontends = resolve_frontends(snapshot)
    packet = Packet("127.0.0.1", "127.0.0.1", 30080, local=local, from_node=True)
    outcomes = trace_packet(lower_frontends(frontends, Family.IPV4), packet)
    assert "the NodePort of" in only(explain(packet, outcomes, frontends=frontends, snapshot=snapshot))[0]


def test_a_pod_that_leaves_the_pod_network() -> None:
    settings = Settings(cluster_cidrs=("10.244.0.0/16",), egress_cidrs=("10.244.0.0/24",))
    (branch,) = tell(A, "192.0.2.9", 80, settings=settings)
    assert (
        words(branch)[-1]
        == "leaves the pod network (10.244.0.0/16), where nobody knows a way back to a pod: masqueraded"
    )
    assert branch.result == "it goes where it was sent, under the address of the node"


@pytest.mark.parametrize(("seconds", "said"), [(10800, "3 h"), (1800, "30 min"), (90, "90 s")])
def test_session_affinity(seconds: int, said: str) -> None:
    fresh, again = tell(OUTSIDE, VIP, 80, web(A, B, affinity_seconds=seconds), member_of=None)
    assert (fresh.remembered, again.remembered) == (False, True)
    assert fresh.choice == f"one of 2 endpoints, 50 % each; remembered for {said} (sessionAffinity ClientIP)"
    assert (
        again.choice == f"a client that was sent there in the last {said} goes there again (sessionAffinity ClientIP)"
    )
    assert [ending.probability for ending in again.endings] == [1, 1]
    (branch,) = tell(
        OUTSIDE, VIP, 80, web(A, B, affinity_seconds=seconds), member_of=frozenset({again.outcomes[1].assumed})
    )
    assert (branch.choice, branch.endings[0].endpoint) == (again.choice, again.endings[1].endpoint)


def test_udp_is_told_by_icmp() -> None:
    (branch,) = tell(B, VIP, 80, make_service("web", protocol="UDP"), protocol="udp")
    assert branch.result == "the client is told at once: port unreachable"
    (branch,) = tell(B, VIP, 80, web())
    assert branch.result == "the client is told at once: connection refused"
    (branch,) = tell(OUTSIDE, NODE, 30080, web(FAR, external_traffic_policy="Local"))
    assert branch.result == "the client hears nothing and gives up after its own timeout"


def test_ipv6_and_dual_stack() -> None:
    made = make_service("web", "fd00:244::1", vip="fd00:96::10")
    settings = Settings(cluster_cidrs=("fd00:244::/32",))
    assert only(tell("fd00:244::2", "fd00:96::10", 80, made, settings=settings))[0] == (
        "[fd00:96::10]:80/TCP is the ClusterIP of default/web (spec.clusterIP, spec.ports[0])"
    )
    service, slices = make_service("web", "fd00:244::1", vip="fd00:96::10")
    both = (type(service)(service.name, cluster_ips=("10.96.0.10", "fd00:96::10"), ports=service.ports), slices)
    assert (
        "(spec.clusterIPs[1], spec.ports[0])"
        in only(tell("fd00:244::2", "fd00:96::10", 80, both, settings=settings))[0]
    )
    assert (
        tell("fd00:244::2", "fd00:96::10", 80, both, settings=settings)[0].endings[0].endpoint == "[fd00:244::1]:8080"
    )


def test_who_has_which_address() -> None:
    (branch,) = tell(OUTSIDE, VIP, 80, web(A, NODE), known={A: "pod default/web-1, here"})[:1]
    assert [ending.who for ending in branch.endings] == ["pod default/web-1, here"]
    assert [b.endings[0].who for b in tell(OUTSIDE, VIP, 80, web(NODE))] == ["this node itself"]


# --- where rules and objects differ ---


def installed(*made: Made) -> Ruleset:
    return lower_frontends(resolve_frontends(make_snapshot(*made)), Family.IPV4)


def test_rules_of_a_service_that_is_gone() -> None:
    (branch,) = tell(OUTSIDE, VIP, 80, ruleset=installed(web(A)))
    assert (
        words(branch)[0]
        == "a rule takes it for a Service that the API does not have there (default/web:http ClusterIP)"
    )
    assert words(branch)[1].startswith("masqueraded: default/web:http ClusterIP")
    assert words(branch)[2] == "the only endpoint"
    assert only(tell(OUTSIDE, VIP, 80, ruleset=installed(web())))[-1] == (
        "refused by a rule for a Service that the API does not have there (default/web:http ClusterIP has no endpoints)"
    )
    dropped = installed(web(A, **LOAD_BALANCER))
    assert only(tell("198.51.100.1", "203.0.113.5", 80, ruleset=dropped))[-1].startswith(
        "dropped by a rule for a Service"
    )
    outside = tell(OUTSIDE, NODE, 30080, ruleset=installed(web(A)))
    assert words(outside[0])[0].startswith("a rule takes it for a Service")


def test_affinity_of_a_service_that_is_gone() -> None:
    rules = installed(web(A, B, affinity_seconds=60))
    again = tell(OUTSIDE, VIP, 80, ruleset=rules, member_of=None)[-1]
    assert again.choice == "a client that was sent there before goes there again (sessionAffinity ClientIP)"


def test_rules_that_the_objects_do_not_call_for() -> None:
    assert only(tell(B, VIP, 80, web(A), ruleset=installed(web())))[-1] == (
        "refused by a rule that the objects do not call for (default/web:http ClusterIP has no endpoints)"
    )
    dropping = installed(web(FAR, internal_traffic_policy="Local"))
    assert only(tell(B, VIP, 80, web(A), ruleset=dropping))[-1].startswith("dropped by a rule that the objects do not")
    other = installed(make_service("other", A))
    assert only(tell(B, VIP, 80, web(A), ruleset=other))[0].startswith("a rule takes it for a Service that the API")


def test_rules_that_are_missing() -> None:
    (branch,) = tell(B, VIP, 80, web(A), ruleset=parse_ruleset(""))
    assert words(branch) == [f"no rule translates it, though it is {IS_CLUSTER_IP.partition(' is ')[2]}"]
    assert branch.choice == ""


def test_unequal_chances() -> None:
    half = "-m statistic --mode random --probability 0.75000000000"
    text = "\n".join(
        (
            "*nat", ":KUBE-SERVICES - [0:0]", ":KUBE-SEP-A - [0:0]", ":KUBE-SEP-B - [0:0]",
            '-A PREROUTING -m comment --comment "podwire: x" -j KUBE-SERVICES',
            f"-A KUBE-SERVICES {half} -j KUBE-SEP-A", "-A KUBE-SERVICES -j KUBE-SEP-B",
            "-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.1:80",
            "-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:80", "COMMIT",
        )
    )  # fmt: skip
    (branch,) = tell(B, VIP, 80, ruleset=parse_ruleset(text), known={B: "x"})[:1]
    assert branch.choice == "one of 2 endpoints, 25 % to 75 %"


@pytest.mark.parametrize(("share", "said"), [(1, "100 %"), (1 / 3, "33.3 %"), (0.5, "50 %"), (1 / 5000, "0.02 %")])
def test_percent(share: float, said: str) -> None:
    assert percent(share) == said
