"""What one Service says in DNS, and the index of what all of them say.

``resolve_service`` is the Kubernetes DNS specification as a function: a Service and its EndpointSlices in, every name
and record of it out. ``Index`` keeps the sum and is updated one Service at a time: a change costs as much as the
Service that changed has endpoints, however many other names there are.

Names of the Service ``web`` in namespace ``shop`` (Z is the cluster domain):

    web.shop.svc.Z                A, AAAA   the ClusterIPs; headless: every ready endpoint
                                  SRV       all its ports
                                  CNAME     ExternalName; nothing else then
    _http._tcp.web.shop.svc.Z     SRV       the port named http; headless: one record per endpoint
    _tcp.web.shop.svc.Z           (nothing: it exists because there is a name below it, RFC 8020)
    db-0.web.shop.svc.Z           A, AAAA   an endpoint: its hostname, or its address with dashes

and PTR records from each ClusterIP, or each endpoint of a headless Service, back to the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address
from typing import TypeVar

from dnsserver.names import Address, Name, dashed, parse_label, reverse_name

IN = 1


class Type(IntEnum):
    """RR types this server knows by name (IANA's registry has the rest)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


@dataclass(frozen=True, slots=True)
class Srv:
    """SRV data (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: Name


@dataclass(frozen=True, slots=True)
class Soa:
    """SOA data (RFC 1035 section 3.3.13); times in seconds."""

    mname: Name
    rname: Name
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


# An address for A and AAAA, a name for CNAME, NS and PTR, bytes for everything that is passed on as it is.
Data = Address | Name | Srv | Soa | bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record; ``ttl`` in seconds."""

    name: Name
    rtype: int
    ttl: int
    data: Data
    rclass: int = IN


Node = Mapping[int, tuple[Record, ...]]  # the records of one name by type; empty for a name that merely exists


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a Service or of an EndpointSlice; unnamed: ``name`` is empty."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """What DNS needs of a Service. ExternalName has ``external_name``; headless has no ``addresses``."""

    namespace: str
    name: str
    addresses: tuple[Address, ...] = ()
    ports: tuple[Port, ...] = ()
    headless: bool = False
    external_name: Name | None = None
    publish_not_ready: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    addresses: tuple[Address, ...]
    hostname: str = ""
    ready: bool = True


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """What DNS needs of an EndpointSlice; ``service`` is the value of its ``kubernetes.io/service-name`` label."""

    namespace: str
    service: str
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """All that one Service contributes. ``pointers``: the names that PTR queries for an address answer."""

    nodes: Mapping[Name, Node] = field(default_factory=dict)
    pointers: Mapping[Address, tuple[Name, ...]] = field(default_factory=dict)


NOTHING = ServiceRecords()


@dataclass(frozen=True, slots=True)
class _PortTarget:
    """One port at one target: an SRV record to be."""

    name: bytes
    protocol: bytes
    port: int
    target: Name


def resolve_service(service: Service, slices: Sequence[EndpointSlice], *, domain: Name, ttl: int) -> ServiceRecords:
    """Everything that ``service`` and its ``slices`` say. Pure; the order of slices does not matter."""
    base = (parse_label(service.name), parse_label(service.namespace), b"svc", *domain)
    if service.external_name is not None:
        return ServiceRecords(nodes={base: {Type.CNAME: (Record(base, Type.CNAME, ttl, service.external_name),)}})
    endpoints = dict(_endpoint_names(service, slices, base))
    if service.headless:
        return _headless(base, endpoints, slices, service, ttl)
    if not service.addresses:
        return NOTHING
    targets = [_PortTarget(_label(p.name), _label(p.protocol), p.port, base) for p in service.ports]
    nodes = _endpoint_nodes(endpoints, ttl)
    nodes.update(_srv_nodes(base, targets, ttl))
    nodes[base] = {**_address_node(base, service.addresses, ttl), **nodes.get(base, {})}
    return ServiceRecords(nodes, dict.fromkeys(service.addresses, (base,)))


def _headless(
    base: Name, endpoints: Mapping[Name, list[Address]], slices: Sequence[EndpointSlice], service: Service, ttl: int
) -> ServiceRecords:
    if not endpoints:
        return NOTHING
    nodes = _endpoint_nodes(endpoints, ttl)
    nodes.update(_srv_nodes(base, list(_endpoint_ports(service, slices, base)), ttl))
    every = [address for addresses in endpoints.values() for address in addresses]
    nodes[base] = {**_address_node(base, every, ttl), **nodes.get(base, {})}
    pointers: dict[Address, list[Name]] = {}
    for name, addresses in endpoints.items():
        for address in addresses:
            pointers.setdefault(address, []).append(name)
    return ServiceRecords(nodes, {address: tuple(sorted(set(names))) for address, names in pointers.items()})


def _usable(service: Service, slices: Iterable[EndpointSlice]) -> Iterator[tuple[EndpointSlice, Endpoint]]:
    for piece in slices:
        for endpoint in piece.endpoints:
            if endpoint.ready or service.publish_not_ready:
                yield piece, endpoint


def _endpoint_names(
    service: Service, slices: Sequence[EndpointSlice], base: Name
) -> Iterable[tuple[Name, list[Address]]]:
    """Endpoint names and their addresses; one hostname on several endpoints gathers all their addresses."""
    names: dict[Name, list[Address]] = {}
    for _, endpoint in _usable(service, slices):
        for address in endpoint.addresses:
            names.setdefault(_endpoint_name(endpoint, address, base), []).append(address)
    return names.items()


def _endpoint_name(endpoint: Endpoint, address: Address, base: Name) -> Name:
    return (_label(endpoint.hostname) or dashed(address), *base)


def _endpoint_ports(service: Service, slices: Sequence[EndpointSlice], base: Name) -> Iterator[_PortTarget]:
    for piece, endpoint in _usable(service, slices):
        for port in piece.ports:
            for address in endpoint.addresses:
                target = _endpoint_name(endpoint, address, base)
                yield _PortTarget(_label(port.name), _label(port.protocol), port.port, target)


def _endpoint_nodes(endpoints: Mapping[Name, list[Address]], ttl: int) -> dict[Name, Node]:
    return {name: _address_node(name, addresses, ttl) for name, addresses in endpoints.items()}


def _address_node(name: Name, addresses: Iterable[Address], ttl: int) -> Node:
    node: dict[int, list[Record]] = {}
    for address in sorted(set(addresses), key=lambda address: (address.version, int(address))):
        rtype = Type.A if isinstance(address, IPv4Address) else Type.AAAA
        node.setdefault(rtype, []).append(Record(name, rtype, ttl, address))
    return {rtype: tuple(records) for rtype, records in node.items()}


def _srv_nodes(base: Name, ports: Sequence[_PortTarget], ttl: int) -> dict[Name, Node]:
    """SRV at the Service's name for all its ports, at ``_port._proto`` for named ones; ``_proto`` exists empty."""
    groups: dict[Name, list[_PortTarget]] = {base: list(ports)} if ports else {}
    nodes: dict[Name, Node] = {}
    for port in ports:
        if port.name:
            above = (b"_" + port.protocol, *base)
            groups.setdefault((b"_" + port.name, *above), []).append(port)
            nodes[above] = {}
    return nodes | {name: {Type.SRV: _srv_records(name, members, ttl)} for name, members in groups.items()}


def _srv_records(name: Name, ports: Iterable[_PortTarget], ttl: int) -> tuple[Record, ...]:
    pairs = sorted({(port.target, port.port) for port in ports})
    weight = max(1, 100 // len(pairs))
    return tuple(Record(name, Type.SRV, ttl, Srv(0, weight, port, target)) for target, port in pairs)


def _label(text: str) -> bytes:
    return text.lower().encode()


Key = tuple[str, str]  # namespace, name
K = TypeVar("K")


class Index:
    """All names of all Services, kept true one object at a time.

    Every ``put_`` takes the new value, or None for an object that is gone, and returns the names whose records changed;
    ``serial`` moves (RFC 1982) if there was one. Not safe to share between threads.
    """

    def __init__(self, domain: Name, *, ttl: int, serial: int = 1) -> None:
        self.domain, self.ttl, self.serial = domain, ttl, serial & 0xFFFFFFFF
        self.nodes: dict[Name, Node] = {}
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, dict[str, EndpointSlice]] = {}  # by the Service they belong to
        self._owners: dict[Key, Key] = {}  # slice -> the Service it belongs to
        self._records: dict[Key, ServiceRecords] = {}
        self._reverse: dict[Address, dict[Key, tuple[Name, ...]]] = {}
        self._namespaces: set[bytes] = set()
        self._inhabited: dict[bytes, int] = {}  # namespace -> how many Services it has
        self._pods: dict[Key, tuple[Address, ...]] = {}
        self._pod_addresses: dict[tuple[bytes, Address], int] = {}

    def put_service(self, namespace: str, name: str, service: Service | None) -> frozenset[Name]:
        key, label = (namespace, name), parse_label(namespace)
        known = self.has_namespace(label)
        if service is not None:
            if key not in self._services:
                self._inhabited[label] = self._inhabited.get(label, 0) + 1
            self._services[key] = service
        elif self._services.pop(key, None) is not None:
            _decrease(self._inhabited, label)
        return self._refresh(key) | self._namespace_changed(label, known)

    def put_slice(self, namespace: str, name: str, piece: EndpointSlice | None) -> frozenset[Name]:
        key = (namespace, name)
        changed: frozenset[Name] = frozenset()
        old = self._owners.pop(key, None)
        if old is not None:
            self._slices[old].pop(name)
            if not self._slices[old]:
                del self._slices[old]
        if piece is not None:
            owner = (piece.namespace, piece.service)
            self._owners[key] = owner
            self._slices.setdefault(owner, {})[name] = piece
            changed = self._refresh(owner)
        if old is not None and (piece is None or old != owner):
            changed |= self._refresh(old)
        return changed

    def put_namespace(self, name: str, *, exists: bool) -> frozenset[Name]:
        label = parse_label(name)
        known = self.has_namespace(label)
        (self._namespaces.add if exists else self._namespaces.discard)(label)
        return self._namespace_changed(label, known)

    def put_pod(self, namespace: str, name: str, addresses: tuple[Address, ...]) -> frozenset[Name]:
        """``addresses``: empty for a pod that is gone or has none yet."""
        key, label = (namespace, name), parse_label(namespace)
        old = self._pods.pop(key, ())
        if addresses:
            self._pods[key] = addresses
        before = {address for address in (*old, *addresses) if self.has_pod(label, address)}
        for address in old:
            _decrease(self._pod_addresses, (label, address))
        for address in addresses:
            self._pod_addresses[label, address] = self._pod_addresses.get((label, address), 0) + 1
        after = {address for address in (*old, *addresses) if self.has_pod(label, address)}
        if before != after:
            self._moved()
        return frozenset((dashed(address), label, b"pod", *self.domain) for address in before ^ after)

    def has_records(self, namespace: str, name: str) -> bool:
        """The Service's name exists: it has an address, an alias, or a ready endpoint."""
        return (namespace, name) in self._records

    def has_namespace(self, label: bytes) -> bool:
        """A namespace exists as an object, or because a Service in it was seen first."""
        return label in self._namespaces or label in self._inhabited

    def has_pod(self, namespace: bytes, address: Address) -> bool:
        return (namespace, address) in self._pod_addresses

    def pointers(self, address: Address) -> tuple[Name, ...]:
        """Names for a PTR query: the Service of a ClusterIP; else the endpoint's name in each headless Service."""
        owners = self._reverse.get(address)
        if owners is None:
            return ()
        virtual = [key for key in owners if not self._services[key].headless]
        return tuple(sorted({name for key in virtual or owners for name in owners[key]}))

    def _refresh(self, key: Key) -> frozenset[Name]:
        """Resolve one Service again and put the difference into effect."""
        old, service = self._records.pop(key, NOTHING), self._services.get(key)
        new = NOTHING
        if service is not None:
            new = resolve_service(service, list(self._slices.get(key, {}).values()), domain=self.domain, ttl=self.ttl)
        if new != NOTHING:
            self._records[key] = new
        if new == old:
            return frozenset()
        names = old.nodes.keys() | new.nodes.keys()
        changed = frozenset(name for name in names if old.nodes.get(name) != new.nodes.get(name))
        for name in old.nodes.keys() - new.nodes.keys():
            del self.nodes[name]
        self.nodes.update(new.nodes)
        moved = {a for a in old.pointers.keys() | new.pointers.keys() if old.pointers.get(a) != new.pointers.get(a)}
        self._point(key, old, new)
        self._moved()
        return changed | frozenset(map(reverse_name, moved))

    def _namespace_changed(self, label: bytes, known: bool) -> frozenset[Name]:
        if known == self.has_namespace(label):
            return frozenset()
        self._moved()
        return frozenset({(label, b"svc", *self.domain), (label, b"pod", *self.domain)})

    def _point(self, key: Key, old: ServiceRecords, new: ServiceRecords) -> None:
        for address in old.pointers.keys() - new.pointers.keys():
            owners = self._reverse[address]
            del owners[key]
            if not owners:
                del self._reverse[address]
        for address, names in new.pointers.items():
            self._reverse.setdefault(address, {})[key] = names

    def _moved(self) -> None:
        self.serial = (self.serial + 1) & 0xFFFFFFFF


def _decrease(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
