"""What an edit does to traffic, in words: one line per kind of change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.effects import NO_EFFECT, Effect, Impact, diff_frontends, render_effects
from rules.iptables.lower import lower_frontends
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, LoadBalancerIngress, Node, ServiceName, ServicePort, Settings, SlicePort
from tests.harness.services import NODE, SETTINGS, Made, endpoint, make_service, make_snapshot

HERE, OTHER, AWAY = endpoint("10.244.0.1"), endpoint("10.244.0.2"), endpoint("10.244.1.3", here=False)
VIP, NP = "ClusterIP 10.96.0.10:80/TCP", "NodePort 30080/TCP"
INGRESS = (LoadBalancerIngress("203.0.113.1"),)
LB = "load balancer IP 203.0.113.1:80/TCP"
LOCAL = {"external_traffic_policy": "Local"}
CHECKED: dict[str, Any] = {"type": "LoadBalancer", "health_check_node_port": 32000, **LOCAL}
INSIDE_LOCAL = {"internal_traffic_policy": "Local"}
ETP, ITP = "spec.externalTrafficPolicy", "spec.internalTrafficPolicy"


def frontends(*made: Made, settings: Settings = SETTINGS, node: Node = NODE) -> Frontends:
    return resolve_frontends(make_snapshot(*made, settings=settings, node=node))


def web(*endpoints: Any, **fields: Any) -> Made:
    return make_service("web", *endpoints, **fields)


def node_port(*endpoints: Any, **fields: Any) -> Made:
    return web(*endpoints, node_port=30080, **fields)


def balanced(*endpoints: Any, **fields: Any) -> Made:
    return web(*endpoints, load_balancer=INGRESS, **fields)


def said(before: Frontends, after: Frontends) -> list[str]:
    return [f"{effect.impact.value} {effect}" for effect in diff_frontends(before, after)]


TABLE: dict[str, tuple[list[Made], list[Made], list[str]]] = {
    # What comes and goes.
    "new": (
        [],
        [web(HERE, OTHER, AWAY)],
        [f"+ {VIP} is new: connections are spread over 3 endpoints"],
    ),
    "new, one endpoint": ([], [web(HERE)], [f"+ {VIP} is new: connections go to 1 endpoint"]),
    "new, no endpoint": ([], [web()], [f"~ {VIP} is new: connections are refused: the Service has no endpoints"]),
    "new NodePort": (
        [web(HERE, AWAY)],
        [node_port(HERE, AWAY)],
        [f"+ {NP} is new: connections are spread over 2 endpoints, which do not see the client's address"],
    ),
    "new NodePort, Local": (
        [web(HERE, AWAY)],
        [node_port(HERE, AWAY, **LOCAL)],
        [
            f"+ {NP} is new: connections from outside go to 1 endpoint on this node, which sees the client's address; "
            "connections from pods and this node are spread over 2 endpoints, which see the client's address"
        ],
    ),
    "new NodePort, Local, none here": (
        [web(AWAY)],
        [node_port(AWAY, **LOCAL)],
        [
            f"+ {NP} is new: connections from outside are dropped: the Service has no endpoints on this node, "
            "1 elsewhere; connections from pods and this node go to 1 endpoint, which sees the client's address"
        ],
    ),
    "gone": (
        [web(HERE, external_ips=("198.51.100.1",))],
        [],
        [
            f"- {VIP} and external IP 198.51.100.1:80/TCP no longer exist: packets are not translated any more; "
            "open connections go on"
        ],
    ),
    "gone, UDP": (
        [web(HERE, protocol="UDP")],
        [],
        ["- ClusterIP 10.96.0.10:80/UDP no longer exists: packets are not translated any more; open flows are ended"],
    ),
    "gone, nobody was served": (
        [web()],
        [],
        [f"~ {VIP} no longer exists: packets are not refused any more, nor translated"],
    ),
    "IPv6": (
        [],
        [web(endpoint("fd00::1"), vip="fd96::10", node_port=30080)],
        [
            "+ ClusterIP [fd96::10]:80/TCP is new: connections go to 1 endpoint",
            "+ NodePort 30080/TCP (IPv6) is new: connections go to 1 endpoint, which does not see the client's address",
        ],
    ),
    "a port is given away": (
        [node_port(HERE)],
        [web(HERE), make_service("other", OTHER, vip="10.96.0.11", node_port=30080)],
        [
            "+ ClusterIP 10.96.0.11:80/TCP is new: connections go to 1 endpoint",
            f"+ {NP} is taken over from Service default/web: connections go to 1 endpoint, "
            "which does not see the client's address",
            f"~ {NP} is left to Service default/other",
        ],
    ),
    "an address is claimed twice": (
        [web(HERE, external_ips=("198.51.100.1",))],
        [
            web(HERE, external_ips=("198.51.100.1",)),
            make_service("other", vip="10.96.0.11", external_ips=("198.51.100.1",)),
        ],
        [
            "~ ClusterIP 10.96.0.11:80/TCP and external IP 198.51.100.1:80/TCP are new: "
            "connections are refused: the Service has no endpoints",
            "  external IP 198.51.100.1:80/TCP is claimed by Service default/web too: only one can be served",
        ],
    ),
    # Whose address endpoints see, and which of them get connections.
    "Local -> Cluster, all endpoints here": (
        [node_port(HERE, OTHER, **LOCAL)],
        [node_port(HERE, OTHER)],
        [
            f"  {NP} from outside: endpoints of every node get connections from now on: "
            f"the same 2 endpoints as before ({ETP}: Local -> Cluster)",
            f"~ {NP}: endpoints no longer see the client's address, but this node's ({ETP}: Local -> Cluster)",
        ],
    ),
    "Cluster -> Local": (
        [node_port(HERE, AWAY)],
        [node_port(HERE, AWAY, **LOCAL)],
        [
            f"~ {NP} from outside: only this node's endpoints get connections from now on: 1 endpoint instead of 2; "
            f"open connections go on ({ETP}: Cluster -> Local)",
            f"~ {NP}: endpoints see the client's address from now on ({ETP}: Cluster -> Local)",
        ],
    ),
    "Cluster -> Local, UDP": (
        [node_port(HERE, AWAY, protocol="UDP")],
        [node_port(HERE, AWAY, protocol="UDP", **LOCAL)],
        [
            "~ NodePort 30080/UDP from outside: only this node's endpoints get connections from now on: "
            f"1 endpoint instead of 2; open flows go on ({ETP}: Cluster -> Local)",
            f"~ NodePort 30080/UDP: endpoints see the client's address from now on ({ETP}: Cluster -> Local)",
        ],
    ),
    "Cluster -> Local, and one endpoint less, SCTP": (
        [node_port(HERE, AWAY, endpoint("10.244.1.4", here=False), protocol="SCTP")],
        [node_port(HERE, AWAY, protocol="SCTP", **LOCAL)],
        [
            "~ ClusterIP 10.96.0.10:80/SCTP and NodePort 30080/SCTP from pods and this node: 10.244.1.4:8080 gets no "
            "new connections: 2 endpoints instead of 3; open associations are ended (EndpointSlices)",
            "~ NodePort 30080/SCTP from outside: only this node's endpoints get connections from now on: "
            "1 endpoint instead of 3; open associations to 10.244.1.4:8080 are ended "
            f"({ETP}: Cluster -> Local)",
            f"~ NodePort 30080/SCTP: endpoints see the client's address from now on ({ETP}: Cluster -> Local)",
        ],
    ),
    "Cluster -> Local, none here": (
        [node_port(AWAY)],
        [node_port(AWAY, **LOCAL)],
        [
            f"- {NP} from outside: new connections are dropped: the Service has no endpoints on this node, 1 elsewhere; "
            f"open connections go on ({ETP}: Cluster -> Local)",
            f"~ {NP} from pods: endpoints see the client's address from now on ({ETP}: Cluster -> Local)",
        ],
    ),
    "Local -> Cluster, none here": (
        [node_port(AWAY, **LOCAL)],
        [node_port(AWAY)],
        [
            f"+ {NP} from outside: connections are no longer dropped, they go to 1 endpoint ({ETP}: Local -> Cluster)",
            f"~ {NP} from pods: endpoints no longer see the client's address, but this node's ({ETP}: Local -> Cluster)",
        ],
    ),
    "internal Local": (
        [web(HERE, AWAY, protocol="UDP")],
        [web(HERE, AWAY, protocol="UDP", **INSIDE_LOCAL)],
        [
            "~ ClusterIP 10.96.0.10:80/UDP: only this node's endpoints get connections from now on: "
            f"1 endpoint instead of 2; open flows are ended ({ITP}: Cluster -> Local)"
        ],
    ),
    # Endpoints.
    "one more": (
        [node_port(HERE)],
        [node_port(HERE, AWAY)],
        [
            f"+ {VIP} and {NP}: 10.244.1.3:8080 gets connections from now on: 2 endpoints instead of 1 (EndpointSlices)"
        ],
    ),
    "one less": (
        [web(HERE, AWAY)],
        [web(HERE)],
        [
            f"~ {VIP}: 10.244.1.3:8080 gets no new connections: 1 endpoint instead of 2; open connections go on "
            "(EndpointSlices)"
        ],
    ),
    "others": (
        [web(HERE)],
        [web(OTHER)],
        [
            f"+ {VIP}: 10.244.0.2:8080 gets connections from now on: 1 endpoint as before (EndpointSlices)",
            f"~ {VIP}: 10.244.0.1:8080 gets no new connections; open connections go on (EndpointSlices)",
        ],
    ),
    "many more": (
        [web(HERE)],
        [web(HERE, *(f"10.244.0.{number}" for number in range(10, 16)))],
        [
            f"+ {VIP}: 10.244.0.10:8080, 10.244.0.11:8080, 10.244.0.12:8080, 10.244.0.13:8080 and 2 more get connections "
            "from now on: 7 endpoints instead of 1 (EndpointSlices)"
        ],
    ),
    "another target port": (
        [web(HERE, AWAY)],
        [web(HERE, AWAY, target=8081)],
        [
            f"~ {VIP}: connections go to port 8081 of the endpoints instead of 8080; open connections go on "
            "(spec.ports[].targetPort)"
        ],
    ),
    "none left": (
        [node_port(HERE)],
        [node_port()],
        [
            f"- {VIP} and {NP}: new connections are refused: the Service has no endpoints; open connections go on "
            "(EndpointSlices)"
        ],
    ),
    "the first": (
        [web()],
        [web(HERE, AWAY)],
        [f"+ {VIP}: connections are no longer refused, they are spread over 2 endpoints (EndpointSlices)"],
    ),
    "the first, elsewhere": (
        [web(**INSIDE_LOCAL)],
        [web(AWAY, **INSIDE_LOCAL)],
        [
            f"~ {VIP}: new connections are dropped: the Service has no endpoints on this node, 1 elsewhere, "
            f"no longer refused ({ITP}: Local)"
        ],
    ),
    "more elsewhere, all the same": ([web(AWAY, **INSIDE_LOCAL)], [web(AWAY, endpoint("10.244.1.4", here=False), **INSIDE_LOCAL)], []),
    # Affinity.
    "affinity": (
        [web(HERE)],
        [web(HERE, affinity_seconds=10800)],
        [f"~ {VIP}: a client stays with its endpoint for 3 h after its last new connection (spec.sessionAffinity)"],
    ),
    "affinity, shorter": (
        [web(HERE, affinity_seconds=120)],
        [web(HERE, affinity_seconds=90)],
        [
            f"~ {VIP}: a client stays with its endpoint for 90 s after its last new connection, before it was 2 min "
            "(spec.sessionAffinity)"
        ],
    ),
    "affinity dropped": (
        [web(HERE, affinity_seconds=120)],
        [web(HERE)],
        [f"~ {VIP}: clients no longer stay with their endpoint (spec.sessionAffinity)"],
    ),
    "affinity to nobody": ([web()], [web(affinity_seconds=120)], []),
    # Load balancers and source ranges.
    "ranges": (
        [balanced(HERE)],
        [balanced(HERE, source_ranges=("198.51.100.0/24", "192.0.2.0/24"))],
        [
            f"- {LB}: only those from 198.51.100.0/24, 192.0.2.0/24 and this node itself are let in, all others are "
            "dropped, whoever they are from (spec.loadBalancerSourceRanges)"
        ],
    ),
    "ranges lifted": (
        [balanced(HERE, source_ranges=("198.51.100.0/24",))],
        [balanced(HERE)],
        [f"+ {LB}: connections from everywhere are let in from now on (spec.loadBalancerSourceRanges)"],
    ),
    "ranges shifted": (
        [balanced(HERE, source_ranges=("198.51.100.0/24", "198.18.0.0/24"))],
        [balanced(HERE, source_ranges=("198.51.100.0/25", "198.18.0.0/23"))],
        [
            f"+ {LB}: connections from 198.18.1.0/24 are let in from now on (spec.loadBalancerSourceRanges)",
            f"- {LB}: new connections from 198.51.100.128/25 are dropped from now on (spec.loadBalancerSourceRanges)",
        ],
    ),
    "the same ranges in other words": (
        [balanced(HERE, source_ranges=("198.51.100.0/24",))],
        [balanced(HERE, source_ranges=("198.51.100.0/25", "198.51.100.128/25"))],
        [],
    ),
    "ranges without endpoints guard nobody": (
        [balanced(HERE, source_ranges=("198.51.100.0/24",))],
        [balanced(source_ranges=("198.18.0.0/24",))],
        [
            f"- {VIP} and {LB}: new connections are refused: the Service has no endpoints; open connections go on "
            "(EndpointSlices)"
        ],
    ),
    "ranges guard again": (
        [balanced(source_ranges=("198.51.100.0/24",))],
        [balanced(HERE, source_ranges=("198.51.100.0/24",))],
        [
            f"+ {VIP} and {LB}: connections are no longer refused, they go to 1 endpoint (EndpointSlices)",
            f"  {LB}: only those from 198.51.100.0/24 are let in, all others are dropped, whoever they are from "
            "(spec.loadBalancerSourceRanges)",
        ],
    ),
    # Health checks.
    "health check": (
        [balanced(HERE, type="LoadBalancer")],
        [balanced(HERE, type="LoadBalancer", health_check_node_port=32000, **LOCAL)],
        [
            f"  {LB} from outside: only this node's endpoints get connections from now on: the same 1 endpoint as before "
            f"({ETP}: Cluster -> Local)",
            f"~ {LB}: endpoints see the client's address from now on ({ETP}: Cluster -> Local)",
            "~ health checks on port 32000/TCP are answered with 200 (1 ready endpoint on this node) "
            "(spec.healthCheckNodePort)",
        ],
    ),
    "health check fails": (
        [web(HERE, AWAY, **CHECKED)],
        [web(AWAY, **CHECKED)],
        [
            f"~ {VIP}: 10.244.0.1:8080 gets no new connections: 1 endpoint instead of 2; open connections go on "
            "(EndpointSlices)",
            "~ health checks on port 32000/TCP are answered with 503 (0 ready endpoints on this node), "
            "before: 200 (1 ready endpoint on this node) (spec.healthCheckNodePort)",
        ],
    ),
    "health check elsewhere": (
        [web(HERE, **CHECKED)],
        [web(HERE, **{**CHECKED, "health_check_node_port": 32001})],
        [
            "~ health checks on port 32000/TCP are no longer answered (spec.healthCheckNodePort)",
            "~ health checks on port 32001/TCP are answered with 200 (1 ready endpoint on this node) "
            "(spec.healthCheckNodePort)",
        ],
    ),
    "health check given up": (
        [web(HERE, **CHECKED)],
        [web(HERE, type="LoadBalancer")],
        ["~ health checks on port 32000/TCP are no longer answered (spec.healthCheckNodePort)"],
    ),
    # Names, and what is not served.
    "a port is named": (
        [web(HERE)],
        [web(HERE, port_name="http")],
        [f"  {VIP}: the port is named 'http' instead of '' (spec.ports[].name)"],
    ),
    "headless": (
        [web(HERE)],
        [web(HERE, cluster_ips=("None",))],
        [
            "  the proxy does not serve it: headless: clients choose endpoints by DNS",
            f"- {VIP} no longer exists: packets are not translated any more; open connections go on",
        ],
    ),
    "no longer headless": (
        [web(HERE, cluster_ips=("None",))],
        [web(HERE)],
        [
            "  the proxy serves it from now on; before, it did not: headless: clients choose endpoints by DNS",
            f"+ {VIP} is new: connections go to 1 endpoint",
        ],
    ),
    "a headless one is gone": ([web(HERE, cluster_ips=("None",))], [], []),
    "a problem": (
        [web(HERE)],
        [web(HERE, affinity_seconds=0)],
        [
            "  left out, because it cannot be served: "
            "sessionAffinity timeout 0 is not between 1 and 86400 seconds: no affinity"
        ],
    ),
    "a problem solved": (
        [web(HERE, affinity_seconds=0)],
        [web(HERE)],
        ["  no longer left out: sessionAffinity timeout 0 is not between 1 and 86400 seconds: no affinity"],
    ),
    "a problem is gone with its Service": (
        [web(affinity_seconds=0)],
        [],
        [f"~ {VIP} no longer exists: packets are not refused any more, nor translated"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_an_edit_in_words(case: str) -> None:
    before, after, sentences = TABLE[case]
    assert said(frontends(*before), frontends(*after)) == sentences


def test_ranges_that_let_nobody_in() -> None:
    assert said(frontends(balanced(HERE)), frontends(balanced(HERE, source_ranges=("fd00::/64",))))[-1] == (
        f"- {LB}: connections are dropped, whoever they are from (spec.loadBalancerSourceRanges)"
    )


def test_settings_of_the_proxy() -> None:
    made = web(HERE)
    unknown, all_of_us = Settings(), replace(SETTINGS, masquerade_all=True)
    assert said(frontends(made, settings=unknown), frontends(made)) == [
        "~ the pod network is 10.244.0.0/16 from now on, before: unknown (settings of the proxy)",
        f"~ {VIP} from outside: endpoints no longer see the client's address, but this node's (settings of the proxy)",
    ]
    assert said(frontends(made), frontends(made, settings=unknown))[1:] == [
        f"~ {VIP} from outside: endpoints see the client's address from now on (settings of the proxy)",
    ]
    hidden = "endpoints no longer see the client's address, but this node's (settings of the proxy)"
    assert said(frontends(made), frontends(made, settings=all_of_us)) == [f"~ {VIP} from pods: {hidden}"]
    assert said(frontends(made, settings=all_of_us), frontends(made)) == [
        f"~ {VIP} from pods: endpoints see the client's address from now on (settings of the proxy)"
    ]
    other = Settings(("nonsense",), egress_cidrs=("10.244.0.0/24",), pod_bridge="br0", node_port_addresses=("primary",))
    assert said(frontends(settings=unknown), frontends(settings=other)) == [
        "~ pods that leave the pod network with this node's address are those in 10.244.0.0/24 from now on, "
        "before: unknown (settings of the proxy)",
        "~ the link to this node's pods is br0 from now on, before: unknown (settings of the proxy)",
        "~ NodePorts listen on 192.0.2.2/32 and all local IPv6 addresses but the loopback ones from now on, before: "
        "all local IPv4 addresses but the loopback ones and all local IPv6 addresses but the loopback ones "
        "(settings of the proxy)",
        "  left out, because it cannot be used: cluster CIDRs: 'nonsense' does not appear to be an IPv4 or IPv6 network "
        "(settings of the proxy)",
    ]


def test_services_one_after_the_other_and_as_text() -> None:
    before = frontends(web(HERE), make_service("a", HERE, vip="10.96.0.9"))
    after = frontends(web(), make_service("b", HERE, vip="10.96.0.9"), settings=replace(SETTINGS, pod_bridge="br0"))
    effects = diff_frontends(before, after)
    assert [effect.service and effect.service.name for effect in effects] == [None, "a", "b", "web"]
    assert render_effects(effects).splitlines() == [
        "this node:",
        "  ~ the link to this node's pods is br0 from now on, before: unknown (settings of the proxy)",
        "Service default/a:",
        "  ~ ClusterIP 10.96.0.9:80/TCP is left to Service default/b",
        "Service default/b:",
        "  + ClusterIP 10.96.0.9:80/TCP is taken over from Service default/a: connections go to 1 endpoint",
        "Service default/web:",
        f"  - {VIP}: new connections are refused: the Service has no endpoints; open connections go on (EndpointSlices)",
    ]
    assert render_effects([]) == NO_EFFECT
    assert str(Effect(ServiceName("default", "web"), Impact.NOTE, "it is")) == "it is"


def two_ports(*endpoints: Any, names: tuple[str, str]) -> Made:
    service, (piece,) = web(*endpoints)
    ports = tuple(ServicePort(number, name) for number, name in zip((80, 81), names, strict=True))
    slice_ports = tuple(SlicePort(8000 + number, name) for number, name in enumerate(names))
    return replace(service, ports=ports), (replace(piece, ports=slice_ports),)


# What is not said is not different: the rules are the same, too.

ENDPOINTS = st.lists(st.sampled_from([HERE, OTHER, AWAY, replace(HERE, ready=False), replace(AWAY, ready=False, serving=True, terminating=True)]), max_size=3)  # fmt: skip
POLICIES = st.sampled_from(["Cluster", "Local"])
FIELDS: dict[str, list[Any]] = {
    "node_port": [0, 30080, 30081],
    "target": [8080, 8081],
    "protocol": ["TCP", "UDP"],
    "port_name": ["", "http"],
    "internal_traffic_policy": ["Cluster", "Local"],
    "external_traffic_policy": ["Cluster", "Local"],
    "affinity_seconds": [None, 0, 60, 3600],
    "external_ips": [(), ("198.51.100.1",), ("nonsense",)],
    "load_balancer": [(), INGRESS],
    "source_ranges": [(), ("192.0.2.0/24",), ("198.51.100.0/24", "192.0.2.0/24")],
    "cluster_ips": [("10.96.0.10",), ("None",), ("10.96.0.12",), ("10.96.0.10", "fd96::10")],
}
NETWORKS = [SETTINGS, Settings(), Settings(("10.244.0.0/16", "10.245.0.0/16"), masquerade_all=True)]
CHOICES = st.fixed_dictionaries({field: st.sampled_from(values) for field, values in FIELDS.items()})


def make_pair(endpoints: list[Any], fields: dict[str, Any], network: Settings, second: int) -> Frontends:
    """A Service and, in its shadow, one that is never changed and may claim the same port."""
    other = make_service("other", AWAY, vip="10.96.0.11", node_port=second)
    return frontends(web(*endpoints, **fields), other, settings=network)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Frontends, Frontends]:
    """Before and after one edit (at most) of one thing."""
    endpoints, fields, network = draw(ENDPOINTS), draw(CHOICES), draw(st.sampled_from(NETWORKS))
    second = draw(st.sampled_from([0, 30082]))
    before = make_pair(endpoints, fields, network, second)
    what = draw(st.sampled_from(["endpoints", "network", "all", *FIELDS]))
    if what in FIELDS:
        fields = {**fields, what: draw(st.sampled_from(FIELDS[what]))}
    elif what == "all":
        fields = draw(CHOICES)
    endpoints = draw(ENDPOINTS) if what in ("endpoints", "all") else endpoints
    network = draw(st.sampled_from(NETWORKS)) if what == "network" else network
    return before, make_pair(endpoints, fields, network, second)


@given(edits())
def test_nothing_said_means_the_same_rules(edit: tuple[Frontends, Frontends]) -> None:
    before, after = edit
    effects = diff_frontends(before, after)
    for family in Family:
        assert effects or lower_frontends(before, family) == lower_frontends(after, family)
    assert effects == diff_frontends(before, after)
    assert all(effect.sentence and "{" not in effect.sentence for effect in effects)
    assert diff_frontends(before, before) == diff_frontends(after, after) == ()


def test_ports_that_change_their_names() -> None:
    before, after = two_ports(HERE, names=("a", "b")), two_ports(HERE, names=("b", "a"))
    assert said(frontends(before), frontends(after)) == [
        f"  {VIP}: the port is named 'b' instead of 'a' (spec.ports[].name)",
        "  ClusterIP 10.96.0.10:81/TCP: the port is named 'a' instead of 'b' (spec.ports[].name)",
    ]
