"""Which Service port a packet meets, as the objects have it, and in which fields of them that is written.

What a Service means was decided by the policy; here its values are looked up by an address and port, and nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from rules.policy import Frontend, Frontends, Kind, PortFrontends, node_port_destinations
from rules.policy.addresses import parse_address
from rules.policy.endpoints import Candidate, gather_candidates
from rules.snapshot import Family, Service, ServiceName, Snapshot
from rules.trace import Packet, is_local

_ARTICLES = {Kind.EXTERNAL_IP: "an", Kind.LOAD_BALANCER: "a"}


@dataclass(frozen=True, slots=True)
class Meeting:
    """The Service port that a packet meets, where it listens there, and its place in the Service."""

    port: PortFrontends
    frontend: Frontend
    service: Service
    index: int

    def __str__(self) -> str:
        """``default/web, port http``."""
        name = self.port.name.port
        return f"{self.service.name}, port {name}" if name else str(self.service.name)

    def describe(self) -> str:
        """``the ClusterIP of default/web, port http (spec.clusterIP, spec.ports[0])``."""
        kind = self.frontend.kind
        whose = "this node's own address and the NodePort" if kind is Kind.NODE_PORT else with_article(kind)
        return f"{whose} of {self} ({field_of(self)})"


def find_meeting(frontends: Frontends, snapshot: Snapshot, packet: Packet) -> Meeting | None:
    """Whose address and port a packet is sent to, by the objects; None: no Service's."""
    for port in frontends.ports(family_of(packet)):
        for frontend in port.frontends:
            if (
                port.protocol.lower() == packet.protocol
                and frontend.port == packet.port
                and _is_at(frontend, frontends, packet)
            ):
                service = _service_of(snapshot, port)
                return Meeting(port, frontend, service, _index_of(service, port))
    return None


def same_address(frontends: Frontends, snapshot: Snapshot, packet: Packet) -> str:
    """A Service that has the packet's destination, but not at its port, as a sentence; empty: there is none."""
    for port in frontends.ports(family_of(packet)):
        for frontend in port.frontends:
            if frontend.address == packet.destination:
                service = _service_of(snapshot, port)
                has = ", ".join(f"{entry.port}/{entry.protocol}" for entry in service.ports)
                wanted = f"{packet.port}/{packet.protocol.upper()}"
                whose = f"{frontend.address} is {with_article(frontend.kind)} of {service.name}"
                return f"{whose}, but {wanted} is no port of it (it has {has})"
    return ""


def health_check_of(snapshot: Snapshot, packet: Packet) -> ServiceName | None:
    """Of which Service a port of this node says whether endpoints are here (load balancers ask; KEP-3458)."""
    if packet.protocol != "tcp" or not is_local(packet, packet.destination):
        return None
    services = snapshot.services.values()
    return next((service.name for service in services if service.health_check_node_port == packet.port), None)


def candidates_of(meeting: Meeting, snapshot: Snapshot) -> tuple[Candidate, ...]:
    """All endpoints of a Service port, whether they are used or not."""
    port = meeting.port
    return gather_candidates(
        snapshot.slices.get(meeting.service.name, ()),
        port_name=port.name.port,
        protocol=port.protocol,
        family=port.family,
        node=snapshot.node,
        problems=[],
    )


def field_of(meeting: Meeting) -> str:
    """The fields of the Service that made a frontend: ``spec.clusterIP, spec.ports[0]``."""
    service, address, port = meeting.service, meeting.frontend.address, f"spec.ports[{meeting.index}]"
    kind = meeting.frontend.kind
    if kind is Kind.NODE_PORT:
        return f"{port}.nodePort"
    if kind is Kind.EXTERNAL_IP:
        return f"spec.externalIPs[{_position(service.external_ips, address)}], {port}"
    if kind is Kind.LOAD_BALANCER:
        at = _position([ingress.ip for ingress in service.load_balancer], address)
        return f"status.loadBalancer.ingress[{at}], {port}"
    at = _position(service.cluster_ips, address)
    return f"{'spec.clusterIP' if at == 0 else f'spec.clusterIPs[{at}]'}, {port}"


def with_article(kind: Kind) -> str:
    return f"{_ARTICLES.get(kind, 'the')} {kind.value}"


def family_of(packet: Packet) -> Family:
    return Family(ipaddress.ip_address(packet.destination).version)


def _is_at(frontend: Frontend, frontends: Frontends, packet: Packet) -> bool:
    if frontend.address is not None:
        return frontend.address == packet.destination
    if not is_local(packet, packet.destination):
        return False
    address = ipaddress.ip_address(packet.destination)
    places = node_port_destinations(frontends, family_of(packet))
    if places:
        return any(address in ipaddress.ip_network(place) for place in places)
    return not address.is_loopback or (frontends.settings.localhost_node_ports and packet.from_node)


def _service_of(snapshot: Snapshot, port: PortFrontends) -> Service:
    return snapshot.services[ServiceName(port.name.namespace, port.name.name)]


def _index_of(service: Service, port: PortFrontends) -> int:
    """Where in ``spec.ports`` a Service port is: names are unique in a Service."""
    return next(i for i, e in enumerate(service.ports) if (e.name, e.protocol) == (port.name.port, port.protocol))


def _position(texts: Iterable[str], address: str | None) -> int:
    """Where an address stands in a list of the API, which may write it in an odd way."""
    return next(at for at, text in enumerate(texts) if _is_same(text, address))


def _is_same(text: str, address: str | None) -> bool:
    try:
        return str(parse_address(text)) == address
    except ValueError:
        return False
