"""Which pods stand behind a Service, at which addresses and ports: one pure answer for Endpoints and EndpointSlices.

A pod is a member when the Service's selector chooses it, it has an address of the family asked for, it has not ended
(Succeeded, Failed), and its node is known. Whether it may receive traffic is said by three truths (KEP-1672):

- *serving*: its Ready condition is true;
- *terminating*: it is being deleted;
- *ready*: serving and not terminating, or the Service publishes addresses that are not ready.

A target port may be a name, which each pod resolves by its own containers' ports; so pods of one Service may listen on
different numbers. A name that a pod does not have is left out for that pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.controllers.endpoint_objects import Conditions, Endpoint, ForName, Hints, Port, Target
from agent.controllers.objects import Container, Node, Pod, Service, ServicePort
from agent.kube.informer import Key

ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Member:
    """One pod behind a Service, in one address family."""

    endpoint: Endpoint
    ports: tuple[Port, ...]


def resolve_families(service: Service) -> tuple[str, ...]:
    """IPv4 and/or IPv6, the Service's first family first. A Service that says none takes its ClusterIP's, else IPv4."""
    if service.spec.ip_families:
        return tuple(dict.fromkeys(service.spec.ip_families))
    return ("IPv4",) if service.headless else (address_family(service.spec.cluster_ip),)


def resolve_members(
    service: Service, pods: Iterable[Pod], nodes: Mapping[Key, Node], *, family: str
) -> tuple[Member, ...]:
    """The members of ``service`` among ``pods`` (those its selector chooses), ordered by pod name."""
    found = [_member(service, pod, nodes, family) for pod in sorted(pods, key=lambda pod: pod.metadata.name)]
    return tuple(member for member in found if member is not None)


def _member(service: Service, pod: Pod, nodes: Mapping[Key, Node], family: str) -> Member | None:
    address = pod_address(pod, family)
    if address is None or pod.finished:
        return None
    node = nodes.get(Key("", pod.spec.node_name))
    tolerant = service.spec.publish_not_ready_addresses
    if node is None and not tolerant:  # nothing there could answer; the pod is about to be collected
        return None
    zone = node.metadata.labels.get(ZONE) if node is not None else None
    serving = pod.ready
    ready = tolerant or (serving and not pod.terminating)
    endpoint = Endpoint(
        addresses=(address,),
        conditions=Conditions(ready=ready, serving=serving, terminating=pod.terminating),
        hostname=endpoint_hostname(service, pod),
        target_ref=pod_target(pod),
        node_name=pod.spec.node_name or None,
        zone=zone,
        hints=_hints(service, zone, pod.spec.node_name) if ready else None,
    )
    return Member(endpoint, resolve_ports(service, pod))


def pod_target(pod: Pod) -> Target:
    return Target(kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid)


def endpoint_hostname(service: Service, pod: Pod) -> str | None:
    """A pod has a name of its own below a Service when it asks for one and names the Service as its subdomain."""
    return pod.spec.hostname or None if pod.spec.subdomain == service.metadata.name else None


def pod_address(pod: Pod, family: str) -> str | None:
    """The pod's first address of a family, in canonical form."""
    for address in pod.addresses:
        if address_family(address) == family:
            return canonical_address(address)
    return None


def address_family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def canonical_address(address: str) -> str:
    """An address as everybody writes it: ``10.0.0.01`` and ``FD00::0:1`` are legal in old objects."""
    if ":" in address:
        return str(ipaddress.IPv6Address(address))
    return ".".join(str(int(part)) for part in address.split("."))


def resolve_ports(service: Service, pod: Pod) -> tuple[Port, ...]:
    numbers = [(port, _target_number(port, pod)) for port in service.spec.ports]
    return tuple(
        Port(name=port.name, port=number, protocol=port.protocol, app_protocol=port.app_protocol or None)
        for port, number in numbers
        if number is not None
    )


def _target_number(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    return _named(port.target_port, port.protocol, [*pod.spec.containers, *sidecars])


def _named(name: str, protocol: str, containers: Iterable[Container]) -> int | None:
    for container in containers:
        for port in container.ports:
            if port.name == name and port.protocol == protocol:
                return port.container_port
    return None


def _hints(service: Service, zone: str | None, node: str) -> Hints | None:
    """For whom a ready endpoint is meant (KEP-4444, KEP-3015): its own zone, and its own node if that is asked for.

    One that is not ready has none (upstream: endpointslice/trafficdist): nobody would be sent there for being near.
    """
    if service.spec.traffic_distribution not in ("PreferClose", "PreferSameZone", "PreferSameNode"):
        return None
    zones = (ForName(name=zone),) if zone else ()
    same_node = service.spec.traffic_distribution == "PreferSameNode"
    nodes = (ForName(name=node),) if same_node and node else ()
    return Hints(for_zones=zones, for_nodes=nodes) if zones or nodes else None
