"""One Service at a time: which ports, in which families, listen where, and what each does with a connection.

| frontend | governed by | routes |
|---|---|---|
| ClusterIP | internalTrafficPolicy | Cluster: all endpoints, outsiders masqueraded. Local: this node's only |
| NodePort, external IP, load balancer IP | externalTrafficPolicy | Cluster: all endpoints, always masqueraded, so that the reply comes back through this node. Local: this node's endpoints with the client's address kept; pods and the node itself are insiders and get all endpoints |
| any, no usable endpoint anywhere | | REJECT: the client learns at once |
| any, Local, usable endpoints on other nodes only | | DROP: a load balancer's health check steers clients away |
"""  # noqa: E501 (a table)

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from rules.policy.addresses import Address, Network, family_of, of_family, parse_address, parse_network
from rules.policy.endpoints import Selection, count_ready_here, gather_candidates, select_endpoints
from rules.policy.values import (
    Action,
    Frontend,
    Frontends,
    HealthCheck,
    Kind,
    Masquerade,
    Pool,
    PortFrontends,
    PortName,
    Route,
    ServiceFrontends,
    Source,
)
from rules.snapshot import EndpointSlice, Family, Node, Service, ServicePort, Settings, Snapshot

OTHER_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
PROTOCOLS = ("TCP", "UDP", "SCTP")
MAX_AFFINITY = 86400  # seconds; the API accepts no more
V = TypeVar("V", Address, Network)

NO_ENDPOINTS = "has no endpoints"
NO_LOCAL_ENDPOINTS = "has no endpoints on this node"


def resolve_frontends(snapshot: Snapshot) -> Frontends:
    """What this node's dataplane must do for the Services of a snapshot. (Each is resolved alone, so a snapshot of some
    Services gives the same answers for these as one of all.)"""
    settings, problems = _usable_settings(snapshot.settings)
    services = {
        name: resolve_service(service, snapshot.slices.get(name, ()), node=snapshot.node, settings=settings)
        for name, service in sorted(snapshot.services.items())
    }
    return Frontends(node=snapshot.node, settings=settings, services=services, problems=problems)


def resolve_service(
    service: Service, slices: Sequence[EndpointSlice], *, node: Node, settings: Settings
) -> ServiceFrontends:
    """One Service, alone."""
    if skipped := _why_skipped(service):
        return ServiceFrontends(service.name, skipped=skipped)
    problems: list[str] = []
    vips = _parse_each("spec.clusterIPs", service.cluster_ips, parse_address, problems)
    places = _Places(service, node=node, problems=problems)
    ports = [
        _resolve_port(service, port, slices, vip=vip, places=places, node=node, settings=settings, problems=problems)
        for port in _usable_ports(service.ports, problems)
        for vip in vips
    ]
    check = _health_check(service, slices, families={family_of(vip) for vip in vips}, node=node, problems=problems)
    told = tuple(dict.fromkeys(problems))
    return ServiceFrontends(service.name, ports=tuple(ports), problems=told, health_check=check)


def _why_skipped(service: Service) -> str:
    if service.type == "ExternalName":
        return "ExternalName: a matter of DNS alone"
    if HEADLESS in service.labels:
        return f"label {HEADLESS}: clients are to choose endpoints by DNS"
    if OTHER_PROXY in service.labels:
        return f"label {OTHER_PROXY}: {service.labels[OTHER_PROXY] or 'another proxy'} serves it"
    if "None" in service.cluster_ips:
        return "headless: clients choose endpoints by DNS"
    if not any(service.cluster_ips):
        return "it has no ClusterIP yet"
    return ""


def _usable_ports(ports: Iterable[ServicePort], problems: list[str]) -> list[ServicePort]:
    """Those that make sense. Two that claim the same are no two ports: the first is served."""
    found: list[ServicePort] = []
    claimed: set[tuple[str, str]] = set()
    for port in ports:
        if not _is_usable(port, problems):
            continue
        claims = {(f"{field} {value!r}", port.protocol) for field, value in _claims(port)}
        if taken := min(claimed & claims, default=None):
            problems.append(f"port {port.port} {port.protocol}: another port has {taken[0]} already")
            continue
        claimed |= claims
        found.append(port)
    return found


def _claims(port: ServicePort) -> Iterator[tuple[str, str | int]]:
    """What no other port of the Service may have under this protocol."""
    yield "name", port.name
    yield "port", port.port
    if port.node_port:
        yield "nodePort", port.node_port


def _is_usable(port: ServicePort, problems: list[str]) -> bool:
    if port.protocol not in PROTOCOLS:
        problems.append(f"port {port.port}: protocol {port.protocol!r} is not one of {', '.join(PROTOCOLS)}")
    elif not 0 < port.port < 65536 or not 0 <= port.node_port < 65536:
        problems.append(f"port {port.port} (nodePort {port.node_port}): not between 1 and 65535")
    else:
        return True
    return False


def _resolve_port(
    service: Service,
    port: ServicePort,
    slices: Sequence[EndpointSlice],
    *,
    vip: Address,
    places: _Places,
    node: Node,
    settings: Settings,
    problems: list[str],
) -> PortFrontends:
    family = family_of(vip)
    candidates = gather_candidates(
        slices, port_name=port.name, protocol=port.protocol, family=family, node=node, problems=problems
    )
    selection = select_endpoints(candidates, node)
    pods = any(family_of(parse_network(cidr)) is family for cidr in settings.cluster_cidrs)
    inside = _internal_routes(service.internal_traffic_policy, selection, _internal_masquerade(settings, pods=pods))
    outside = _external_routes(service.external_traffic_policy, selection, pods=pods)
    own = Frontend(Kind.CLUSTER_IP, str(vip), port.port, inside)
    return PortFrontends(
        name=PortName(*service.name, port.name),
        family=family,
        protocol=port.protocol,
        cluster=selection.cluster,
        local=selection.local,
        frontends=(own, *places.frontends(port, own, family=family, routes=outside)),
        affinity=_affinity(service, problems),
    )


class _Places:
    """Where a Service listens besides its ClusterIPs."""

    def __init__(self, service: Service, *, node: Node, problems: list[str]) -> None:
        vips = [ingress.ip for ingress in service.load_balancer if ingress.ip and ingress.ip_mode != "Proxy"]
        self._external = _parse_each("spec.externalIPs", service.external_ips, parse_address, problems)
        self._vips = _parse_each("status.loadBalancer.ingress", vips, parse_address, problems)
        self._allowed = _parse_each("spec.loadBalancerSourceRanges", service.source_ranges, parse_network, problems)
        self._restricted = bool(service.source_ranges)
        self._node = _parse_each("node", node.addresses, parse_address, [])

    def frontends(
        self, port: ServicePort, own: Frontend, *, family: Family, routes: tuple[Route, ...]
    ) -> Iterator[Frontend]:
        """Each address once: one that is an external IP, too, is open to all, whatever it is besides."""
        taken = {own.address}
        for kind, addresses in ((Kind.EXTERNAL_IP, self._external), (Kind.LOAD_BALANCER, self._vips)):
            for ip in _texts(addresses, family):
                if ip not in taken:
                    taken.add(ip)
                    allowed = self._allowed_sources(ip, family) if kind is Kind.LOAD_BALANCER else None
                    yield Frontend(kind, ip, port.port, routes, allowed)
        if port.node_port:
            yield Frontend(Kind.NODE_PORT, None, port.node_port, routes)

    def _allowed_sources(self, vip: str, family: Family) -> tuple[str, ...] | None:
        """The source ranges of a family; if none is of it, nobody: to name a range is to shut out all others. Where
        they contain this node, the VIP itself is allowed too: the node's own connections to an address that it holds
        come from that address."""
        if not self._restricted:
            return None
        ranges = of_family(self._allowed, family)
        if any(address in network for address in self._node for network in map(parse_network, ranges)):
            ranges += (str(parse_network(vip)),)
        return ranges


def _internal_masquerade(settings: Settings, *, pods: bool) -> Masquerade:
    """Replies to an outsider must come back through this node; a pod's are routed here anyway."""
    if settings.masquerade_all:
        return Masquerade.ALWAYS
    return Masquerade.OUTSIDERS if pods else Masquerade.NEVER  # not knowing the pods, everybody may be one


def _internal_routes(policy: str, selection: Selection, masquerade: Masquerade) -> tuple[Route, ...]:
    if not selection.cluster:
        return (Route(Source.ANYONE, Action.REJECT, why=NO_ENDPOINTS),)
    if policy != "Local":
        return (Route(Source.ANYONE, Action.FORWARD, Pool.CLUSTER, masquerade),)
    if not selection.local:
        return (Route(Source.ANYONE, Action.DROP, Pool.LOCAL, why=NO_LOCAL_ENDPOINTS),)
    return (Route(Source.ANYONE, Action.FORWARD, Pool.LOCAL, masquerade),)


def _external_routes(policy: str, selection: Selection, *, pods: bool) -> tuple[Route, ...]:
    if not selection.cluster:
        return (Route(Source.ANYONE, Action.REJECT, why=NO_ENDPOINTS),)
    if policy != "Local":
        return (Route(Source.ANYONE, Action.FORWARD, Pool.CLUSTER, Masquerade.ALWAYS),)
    insiders = (
        *((Route(Source.POD, Action.FORWARD, Pool.CLUSTER),) if pods else ()),
        Route(Source.NODE, Action.FORWARD, Pool.CLUSTER, Masquerade.ALWAYS),
    )
    if not selection.local:
        return (*insiders, Route(Source.ANYONE, Action.DROP, Pool.LOCAL, why=NO_LOCAL_ENDPOINTS))
    return (*insiders, Route(Source.ANYONE, Action.FORWARD, Pool.LOCAL))


def _health_check(
    service: Service, slices: Sequence[EndpointSlice], *, families: Iterable[Family], node: Node, problems: list[str]
) -> HealthCheck | None:
    """Only a load balancer that must not pick just any node asks (core/v1 ServiceSpec.healthCheckNodePort)."""
    port = service.health_check_node_port
    if service.type != "LoadBalancer" or service.external_traffic_policy != "Local" or not port:
        return None
    if not 0 < port < 65536:
        problems.append(f"healthCheckNodePort {port} is not between 1 and 65535")
        return None
    return HealthCheck(port, count_ready_here(slices, service.ports, families=families, node=node))


def _affinity(service: Service, problems: list[str]) -> int | None:
    seconds = service.affinity_seconds
    if seconds is not None and not 0 < seconds <= MAX_AFFINITY:
        problems.append(f"sessionAffinity timeout {seconds} is not between 1 and {MAX_AFFINITY} seconds: no affinity")
        return None
    return seconds


def _usable_settings(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Settings with canonical CIDRs, and what could not be used of them."""
    problems: list[str] = []

    def cidrs(where: str, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(network) for network in _parse_each(where, texts, parse_network, problems))

    named = tuple(text for text in settings.node_port_addresses if text == "primary")
    ranges = tuple(text for text in settings.node_port_addresses if text != "primary")
    usable = replace(
        settings,
        cluster_cidrs=cidrs("cluster CIDRs", settings.cluster_cidrs),
        egress_cidrs=cidrs("egress CIDRs", settings.egress_cidrs),
        node_port_addresses=named + cidrs("nodePortAddresses", ranges),
    )
    return usable, tuple(problems)


def _parse_each(where: str, texts: Iterable[str], parse: Callable[[str], V], problems: list[str]) -> list[V]:
    """What can be parsed, each once; what cannot is a problem."""
    found: dict[V, None] = {}
    for text in texts:
        try:
            found[parse(text)] = None
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return list(found)


def _texts(addresses: Iterable[Address], family: Family) -> list[str]:
    return [str(address) for address in addresses if family_of(address) is family]
