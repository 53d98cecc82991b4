"""What each address of a Service does, decided: one line per rule of Kubernetes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rules.policy import (
    Action,
    Backend,
    Frontend,
    HealthCheck,
    Kind,
    Masquerade,
    Pool,
    PortFrontends,
    PortName,
    Route,
    Source,
    node_port_destinations,
    resolve_frontends,
)
from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    Family,
    LoadBalancerIngress,
    Node,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
)
from tests.harness.services import NODE, SETTINGS, endpoint, make_service, make_snapshot

WEB = ServiceName("default", "web")
ANYONE, POD, NODE_ITSELF = Source.ANYONE, Source.POD, Source.NODE
FORWARD, REJECT, DROP = Action.FORWARD, Action.REJECT, Action.DROP
A, B, C = "10.244.0.1", "10.244.0.2", "10.244.1.3"


def port_of(
    *endpoints: Endpoint | str, node: Node = NODE, settings: Settings = SETTINGS, **fields: Any
) -> PortFrontends:
    """The one port of a Service with these endpoints, resolved."""
    frontends = resolve_frontends(
        make_snapshot(make_service("web", *endpoints, **fields), node=node, settings=settings)
    )
    (port,) = frontends.services[WEB].ports
    return port


def names(backends: tuple[Backend, ...]) -> list[str]:
    return [backend.address for backend in backends]


def routes_of(port: PortFrontends, kind: Kind) -> tuple[Route, ...]:
    (frontend,) = (frontend for frontend in port.frontends if frontend.kind is kind)
    return frontend.routes


# Endpoints: ready, else serving and terminating, each set by itself.

READY: dict[str, Any] = {"ready": True}
UNREADY: dict[str, Any] = {"ready": False}
DRAINING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
DYING: dict[str, Any] = {"ready": False, "serving": False, "terminating": True}


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ([], [], []),
        ([endpoint(A)], [A], [A]),  # an absent condition means ready
        ([endpoint(A, **READY), endpoint(B, **UNREADY)], [A], [A]),
        ([endpoint(A, **READY), endpoint(B, **DRAINING)], [A], [A]),
        ([endpoint(A, **UNREADY), endpoint(B, **DRAINING)], [B], [B]),
        ([endpoint(A, **DYING)], [], []),
        ([endpoint(A, ready=True, terminating=True)], [A], [A]),
        ([endpoint(C, here=False, **READY), endpoint(A, **DRAINING)], [C], [A]),  # decided separately
        ([endpoint(C, here=False, **READY), endpoint(A, **UNREADY)], [C], []),
        ([endpoint(C, here=False, **DRAINING), endpoint(A, **READY)], [A], [A]),
        ([endpoint(B), endpoint(A)], [A, B], [A, B]),
        ([endpoint(A, ready=False, terminating=True)], [A], [A]),  # an absent condition means serving, too
        ([endpoint(A, here=False), endpoint(A)], [A], [A]),  # the mention that knows that it is here
        ([endpoint(A), endpoint(A, here=False)], [A], [A]),
    ],
)
def test_usable_endpoints(endpoints: list[Endpoint], cluster: list[str], local: list[str]) -> None:
    port = port_of(*endpoints)
    assert (names(port.cluster), names(port.local)) == (cluster, local)


def hinted(address: str, *, nodes: str = "", zones: str = "", **conditions: Any) -> Endpoint:
    return endpoint(address, node_hints=tuple(nodes.split()), zone_hints=tuple(zones.split()), **conditions)


@pytest.mark.parametrize(
    ("endpoints", "cluster"),
    [
        ([hinted(A, zones="east"), hinted(B, zones="west")], [A]),
        ([hinted(A, zones="east west"), hinted(B, zones="west")], [A]),
        ([hinted(A, zones="east"), hinted(B)], [A, B]),  # one without a hint: none counts
        ([hinted(A, zones="west"), hinted(B, zones="west")], [A, B]),  # none for this zone
        ([hinted(A, zones="east"), hinted(B, **UNREADY)], [A]),  # endpoints that are not ready need none
        ([hinted(A, nodes="here", zones="west"), hinted(B, nodes="there", zones="east")], [A]),  # node before zone
        ([hinted(A, nodes="there", zones="east"), hinted(B, nodes="there", zones="west")], [A]),
        ([hinted(A, zones="west", **DRAINING), hinted(B, zones="east", **DRAINING)], [A, B]),  # the fallback knows none
    ],
)
def test_hints_narrow_the_cluster_set(endpoints: list[Endpoint], cluster: list[str]) -> None:
    port = port_of(*endpoints)
    assert names(port.cluster) == cluster
    assert set(names(port.local)) >= set(cluster)  # and never the local one


def test_a_node_without_a_zone_has_no_topology() -> None:
    assert names(port_of(hinted(A, zones=""), hinted(B, zones="west"), node=Node("here")).cluster) == [A, B]


def test_slices_are_merged_and_others_ignored() -> None:
    service, (first,) = make_service("web", endpoint(A, **UNREADY), endpoint(B))
    again = EndpointSlice("web-2", "IPv4", first.ports, (endpoint(A), endpoint(B, **DRAINING)))
    elsewhere = EndpointSlice("web-3", "IPv4", (SlicePort(8080, "other"), SlicePort(53, "", "UDP")), (endpoint(C),))
    fqdn = EndpointSlice("web-4", "FQDN", first.ports, (endpoint("example.org"),))
    any_port = EndpointSlice("web-5", "IPv4", (SlicePort(None),), (endpoint(C),))
    slices = (first, again, elsewhere, fqdn, any_port)
    found = resolve_frontends(make_snapshot((service, slices))).services[WEB]
    assert names(found.ports[0].cluster) == [A, B]
    assert not found.problems


# Traffic policies.


def test_cluster_ip() -> None:
    port = port_of(A, endpoint(C, here=False))
    own = Frontend(Kind.CLUSTER_IP, "10.96.0.10", 80, (Route(ANYONE, FORWARD, Pool.CLUSTER, Masquerade.OUTSIDERS),))
    assert port == PortFrontends(
        name=PortName("default", "web"),
        family=Family.IPV4,
        protocol="TCP",
        cluster=(Backend(A, 8080, local=True), Backend(C, 8080)),
        local=(Backend(A, 8080, local=True),),
        frontends=(own,),
    )
    assert (port.pool(Pool.CLUSTER), port.pool(Pool.LOCAL)) == (port.cluster, port.local)


@pytest.mark.parametrize(
    ("endpoints", "policy", "route"),
    [
        ([], "Cluster", Route(ANYONE, REJECT, why="has no endpoints")),
        ([], "Local", Route(ANYONE, REJECT, why="has no endpoints")),
        ([endpoint(A)], "Local", Route(ANYONE, FORWARD, Pool.LOCAL, Masquerade.OUTSIDERS)),
        ([endpoint(C, here=False)], "Local", Route(ANYONE, DROP, Pool.LOCAL, why="has no endpoints on this node")),
    ],
)
def test_internal_traffic_policy(endpoints: list[Endpoint], policy: str, route: Route) -> None:
    port = port_of(*endpoints, internal_traffic_policy=policy)
    assert routes_of(port, Kind.CLUSTER_IP) == (route,)


INSIDERS = (Route(POD, FORWARD), Route(NODE_ITSELF, FORWARD, masquerade=Masquerade.ALWAYS))


@pytest.mark.parametrize(
    ("endpoints", "policy", "routes"),
    [
        ([], "Local", (Route(ANYONE, REJECT, why="has no endpoints"),)),
        ([endpoint(A)], "Cluster", (Route(ANYONE, FORWARD, Pool.CLUSTER, Masquerade.ALWAYS),)),
        ([endpoint(A)], "Local", (*INSIDERS, Route(ANYONE, FORWARD, Pool.LOCAL))),
        (
            [endpoint(C, here=False)],
            "Local",
            (*INSIDERS, Route(ANYONE, DROP, Pool.LOCAL, why="has no endpoints on this node")),
        ),
    ],
)
def test_external_traffic_policy(endpoints: list[Endpoint], policy: str, routes: tuple[Route, ...]) -> None:
    port = port_of(
        *endpoints,
        node_port=30001,
        external_ips=("198.51.100.1",),
        load_balancer=(LoadBalancerIngress("203.0.113.1"),),
        external_traffic_policy=policy,
    )
    for kind in (Kind.NODE_PORT, Kind.EXTERNAL_IP, Kind.LOAD_BALANCER):
        assert routes_of(port, kind) == routes


@pytest.mark.parametrize(
    ("settings", "masquerade"),
    [
        (SETTINGS, Masquerade.OUTSIDERS),
        (Settings(), Masquerade.NEVER),  # not knowing the pods, nobody is an outsider
        (replace(SETTINGS, masquerade_all=True), Masquerade.ALWAYS),
        (Settings(cluster_cidrs=("fd00::/64",)), Masquerade.NEVER),  # pods of the other family
    ],
)
def test_masquerade_of_cluster_ip(settings: Settings, masquerade: Masquerade) -> None:
    assert routes_of(port_of(A, settings=settings), Kind.CLUSTER_IP)[0].masquerade is masquerade


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_masquerade_all_is_about_cluster_ips_only(policy: str) -> None:
    fields: dict[str, Any] = {"node_port": 30001, "external_traffic_policy": policy}
    everybody = replace(SETTINGS, masquerade_all=True)
    assert routes_of(port_of(A, **fields), Kind.NODE_PORT) == routes_of(
        port_of(A, settings=everybody, **fields), Kind.NODE_PORT
    )


def test_without_a_pod_network_nobody_is_a_pod() -> None:
    port = port_of(A, settings=Settings(), node_port=30001, external_traffic_policy="Local")
    assert [route.source for route in routes_of(port, Kind.NODE_PORT)] == [NODE_ITSELF, ANYONE]


# Where a Service listens.


def test_places() -> None:
    port = port_of(
        A,
        node_port=30001,
        external_ips=("198.51.100.1", "198.51.100.1", "2001:db8::1"),
        load_balancer=(
            LoadBalancerIngress("203.0.113.1"),
            LoadBalancerIngress("203.0.113.2", "Proxy"),
            LoadBalancerIngress(""),
        ),
    )
    assert [(f.kind, f.address, f.port) for f in port.frontends] == [
        (Kind.CLUSTER_IP, "10.96.0.10", 80),
        (Kind.EXTERNAL_IP, "198.51.100.1", 80),
        (Kind.LOAD_BALANCER, "203.0.113.1", 80),
        (Kind.NODE_PORT, None, 30001),
    ]


@pytest.mark.parametrize(
    ("ranges", "allowed"),
    [
        ((), None),
        (("10.0.0.0/8", " 10.0.0.0/8 "), ("10.0.0.0/8",)),
        (("010.1.2.3/8",), ("10.0.0.0/8",)),  # as Go once read it
        (("192.0.2.0/24",), ("192.0.2.0/24", "203.0.113.1/32")),  # this node is in it
        (("2001:db8::/32",), ()),  # nobody of this family, also if this node has an address in it
        (("::ffff:192.0.2.0/120",), ("192.0.2.0/24", "203.0.113.1/32")),
        (("nonsense",), ()),  # refuse rather than open
    ],
)
def test_source_ranges(ranges: tuple[str, ...], allowed: tuple[str, ...] | None) -> None:
    node = Node("here", ("192.0.2.2", "2001:db8::2"))
    vip = (LoadBalancerIngress("203.0.113.1"),)
    port = port_of(A, node=node, node_port=30001, load_balancer=vip, source_ranges=ranges)
    assert {f.kind: f.allowed_sources for f in port.frontends} == {
        Kind.CLUSTER_IP: None,
        Kind.LOAD_BALANCER: allowed,
        Kind.NODE_PORT: None,
    }


def test_an_address_is_served_once() -> None:
    """An external IP is open to all, also if a load balancer has it; a ClusterIP stays one, whatever else it is called."""
    vip, shared, other = "10.96.0.10", "198.51.100.1", "203.0.113.1"
    port = port_of(
        A,
        vip=vip,
        external_ips=(shared, vip),
        load_balancer=tuple(LoadBalancerIngress(ip) for ip in (vip, other, shared)),
        source_ranges=("10.0.0.0/8",),
    )
    assert [(f.kind, f.address, f.allowed_sources) for f in port.frontends] == [
        (Kind.CLUSTER_IP, vip, None),
        (Kind.EXTERNAL_IP, shared, None),
        (Kind.LOAD_BALANCER, other, ("10.0.0.0/8",)),
    ]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (ServicePort(81, "a"), "port 81 TCP: another port has name 'a' already"),
        (ServicePort(80, "b"), "port 80 TCP: another port has port 80 already"),
        (ServicePort(81, "b", node_port=30001), "port 81 TCP: another port has nodePort 30001 already"),
        (ServicePort(81, "b", node_port=0), None),
        (ServicePort(80, "a", "UDP", 30001), None),
    ],
)
def test_two_ports_that_claim_the_same(second: ServicePort, problem: str | None) -> None:
    made = make_service("web", A, ports=(ServicePort(80, "a", node_port=30001), second))
    found = resolve_frontends(make_snapshot(made)).services[WEB]
    assert found.problems == ((problem,) if problem else ())
    assert len(found.ports) == (1 if problem else 2)


def test_dual_stack_and_two_protocols() -> None:
    ports = (ServicePort(53, "dns", "UDP"), ServicePort(53, "dns-tcp", "TCP"))
    service, (udp,) = make_service("web", A, ports=ports, cluster_ips=("10.96.0.10", "fd00:96::a"))
    both = (SlicePort(53, "dns", "UDP"), SlicePort(5353, "dns-tcp"))
    slices = (replace(udp, ports=both), EndpointSlice("six", "IPv6", both, (endpoint("fd00:244::1"),)))
    frontends = resolve_frontends(make_snapshot((service, slices)))
    found = {
        family: [(str(p.name), p.protocol, str(p.cluster[0])) for p in frontends.ports(family)] for family in Family
    }
    assert found == {
        Family.IPV4: [("default/web:dns", "UDP", f"{A}:53"), ("default/web:dns-tcp", "TCP", f"{A}:5353")],
        Family.IPV6: [
            ("default/web:dns", "UDP", "[fd00:244::1]:53"),
            ("default/web:dns-tcp", "TCP", "[fd00:244::1]:5353"),
        ],
    }


@pytest.mark.parametrize(("seconds", "affinity"), [(None, None), (10800, 10800), (1, 1), (0, None), (86401, None)])
def test_affinity(seconds: int | None, affinity: int | None) -> None:
    port = port_of(A, affinity_seconds=seconds)
    assert port.affinity == affinity


@pytest.mark.parametrize(
    ("addresses", "v4", "v6"),
    [
        ((), (), ()),
        (("primary",), ("192.0.2.2/32",), ("2001:db8::2/128",)),
        (("192.0.2.9/24", "primary"), ("192.0.2.2/32", "192.0.2.0/24"), ("2001:db8::2/128",)),
        (("2001:db8::/32",), (), ("2001:db8::/32",)),
        (("nonsense",), (), ()),
        (("0.0.0.0/0", "192.0.2.0/24", "::/0"), (), ()),  # everywhere, said in another way
    ],
)
def test_node_port_addresses(addresses: tuple[str, ...], v4: tuple[str, ...], v6: tuple[str, ...]) -> None:
    node = Node("here", ("a name", "192.0.2.2", "192.0.2.3", "2001:db8::2"))
    frontends = resolve_frontends(make_snapshot(node=node, settings=Settings(node_port_addresses=addresses)))
    assert node_port_destinations(frontends, Family.IPV4) == v4
    assert node_port_destinations(frontends, Family.IPV6) == v6
    assert bool(frontends.problems) == ("nonsense" in addresses)


def test_primary_is_everywhere_in_a_family_that_the_node_has_no_address_of() -> None:
    frontends = resolve_frontends(make_snapshot(settings=Settings(node_port_addresses=("primary",))))
    assert node_port_destinations(frontends, Family.IPV4) == ("192.0.2.2/32",)
    assert node_port_destinations(frontends, Family.IPV6) == ()


@pytest.mark.parametrize(
    ("addresses", "asked_for", "v4", "v6"),
    [
        (("127.0.0.1/32", "::1/128"), False, {"0.0.0.0/32"}, {"::/128"}),  # nowhere
        (("127.0.0.1/32", "::1/128"), True, {"127.0.0.1/32"}, {"::/128"}),
        (("127.0.0.0/8", "192.0.2.0/24"), False, {"192.0.2.0/24"}, set()),
        (("126.0.0.0/7",), False, {"126.0.0.0/8"}, set()),
        (("126.0.0.0/7", "::/126"), True, {"126.0.0.0/8", "127.0.0.0/8"}, {"::/128", "::2/127"}),
    ],
)
def test_node_ports_on_loopback_addresses(
    addresses: tuple[str, ...], asked_for: bool, v4: set[str], v6: set[str]
) -> None:
    settings = Settings(node_port_addresses=addresses, localhost_node_ports=asked_for)
    frontends = resolve_frontends(make_snapshot(settings=settings))
    assert set(node_port_destinations(frontends, Family.IPV4)) == v4
    assert set(node_port_destinations(frontends, Family.IPV6)) == v6


# What a load balancer is told about this node.


@pytest.mark.parametrize(
    ("endpoints", "fields", "check"),
    [
        ([A, B, endpoint(C, here=False)], {}, HealthCheck(32000, 2)),
        ([endpoint(A, **DRAINING), endpoint(C, here=False)], {}, HealthCheck(32000, 0)),  # look elsewhere in time
        ([A], {"ports": (ServicePort(80), ServicePort(443, "s"))}, HealthCheck(32000, 1)),
        ([], {}, HealthCheck(32000, 0)),
        ([A], {"cluster_ips": ("nonsense",)}, HealthCheck(32000, 0)),
        ([A], {"type": "NodePort"}, None),
        ([A], {"external_traffic_policy": "Cluster"}, None),
        ([A], {"health_check_node_port": 0}, None),
        ([A], {"health_check_node_port": 70000}, None),
    ],
)
def test_health_check(endpoints: list[Endpoint], fields: dict[str, Any], check: HealthCheck | None) -> None:
    asked: dict[str, Any] = {
        "type": "LoadBalancer",
        "external_traffic_policy": "Local",
        "health_check_node_port": 32000,
        **fields,
    }
    found = resolve_frontends(make_snapshot(make_service("web", *endpoints, **asked))).services[WEB]
    assert found.health_check == check
    if asked["health_check_node_port"] > 65535:
        assert found.problems == ("healthCheckNodePort 70000 is not between 1 and 65535",)


# What is none of the proxy's business, and what makes no sense.


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"type": "ExternalName", "cluster_ips": ()}, "ExternalName"),
        ({"cluster_ips": ("None",)}, "headless"),
        ({"cluster_ips": ()}, "no ClusterIP yet"),
        ({"cluster_ips": ("",)}, "no ClusterIP yet"),
        ({"labels": {"service.kubernetes.io/headless": ""}}, "choose endpoints by DNS"),
        ({"labels": {"service.kubernetes.io/service-proxy-name": "mine"}}, "mine serves it"),
        ({"labels": {"service.kubernetes.io/service-proxy-name": ""}}, "another proxy"),
    ],
)
def test_skipped(fields: dict[str, Any], why: str) -> None:
    found = resolve_frontends(make_snapshot(make_service("web", A, **fields))).services[WEB]
    assert why in found.skipped
    assert not found.ports


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cluster_ips": ("10.96.0.10", "10.96.0.300")}, "spec.clusterIPs"),
        ({"external_ips": ("nowhere",)}, "spec.externalIPs"),
        ({"external_ips": ("010.0.0.x",)}, "in '010.0.0.x'"),
        ({"ports": (ServicePort(80), ServicePort(81, "x", "ICMP"))}, "protocol 'ICMP'"),
        ({"ports": (ServicePort(80), ServicePort(0, "x"))}, "port 0"),
        ({"ports": (ServicePort(80), ServicePort(1, "x", node_port=70000))}, "nodePort 70000"),
        ({"load_balancer": (LoadBalancerIngress("x"),)}, "status.loadBalancer.ingress"),
        ({"affinity_seconds": -1}, "sessionAffinity timeout -1"),
    ],
)
def test_a_bad_part_is_left_out_and_told(fields: dict[str, Any], problem: str) -> None:
    others = make_service("other", B, vip="10.96.0.11")
    frontends = resolve_frontends(make_snapshot(make_service("web", A, **fields), others))
    (told,) = frontends.services[WEB].problems
    assert problem in told
    assert [str(name) for name in frontends.services] == ["default/other", "default/web"]
    assert [names(port.cluster) for port in frontends.ports(Family.IPV4)] == [[B], [A]]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("nowhere", "'nowhere' is not an IP address"),
        ("fd00::1", "fd00::1 is not an IPv4 address"),
        ("fe80::1%eth0", "'fe80::1%eth0' is not an IP address"),  # a link of another machine
    ],
)
def test_a_bad_endpoint_is_left_out_and_told(bad: str, problem: str) -> None:
    found = resolve_frontends(make_snapshot(make_service("web", bad, A))).services[WEB]
    assert names(found.ports[0].cluster) == [A]
    assert found.problems == (f"EndpointSlice web-1: {problem}",)


def test_a_bad_target_port_is_told() -> None:
    found = resolve_frontends(make_snapshot(make_service("web", A, target=0))).services[WEB]
    assert found.problems == ("EndpointSlice web-1: port 0 is not between 1 and 65535",)
    assert found.ports[0].frontends[0].routes[0].action is REJECT


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("010.096.000.010", "10.96.0.10"), ("::ffff:10.96.0.10", "10.96.0.10"), (" 10.96.0.10 ", "10.96.0.10")],
)
def test_odd_but_legal_addresses(text: str, canonical: str) -> None:
    assert port_of(A, cluster_ips=(text,)).frontends[0].address == canonical
