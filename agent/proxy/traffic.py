"""How many connections and bytes each Service and endpoint has had. Pure: conntrack entries and frontends in, rows out.

Counters of rules would be wrong: the nat table sees only the first packet of a connection, and counters go when rules
are written anew. Connection tracking knows every connection, what it carried, where the client wanted to go and who
answers; rules may come and go meanwhile. So a connection is counted when it has ended, and those that live are added
when somebody asks:

```
entry that ended -> owner -> Tally of (Service port, endpoint)  --+--> Report
entries that live now ------ owner -------------------------------+
```
**Whose is it?** It was sent on (DNAT), and its original destination is a frontend of the Service: a ClusterIP, external
or load balancer IP with its port; or a NodePort, where the destination is an address of this node, or whoever answers
is known as an endpoint of the Service. This is decided when the entry is seen, not when somebody asks: addresses and
NodePorts are given to other Services in time. A place where a Service listened remains its own until another Service
gets it: TCP entries outlive their connection by two minutes, and their Service perhaps.

**What is kept is bounded.** The endpoints of a Service port as it is now have a tally each; of those that left, the
youngest DEPARTED that carried anything have (they may come back), and all others are one sum. Of Services that were
deleted, the last GONE ports are kept, and all others are one sum. A Service that comes back goes on counting.

Bytes are lengths of IP packets, headers included, as the kernel counts them. "In" is from the client to the Service.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.proxy.conntrack_wire import PROTOCOLS, Entry, pack, text_of
from rules.policy import Frontends, Kind, PortFrontends, PortName, ServiceFrontends
from rules.policy.addresses import parse_address
from rules.snapshot import ServiceName

DEPARTED = 32  # endpoints of a Service port
GONE = 1000  # Service ports
OLD_PLACES = 32  # where a Service port has listened once

Place = tuple[int, bytes, int]  # protocol, packed address (empty: this node's, a NodePort), port
Address = tuple[bytes, int]


@dataclass(slots=True)
class Tally:
    """A sum over connections. ``open``: those that have not ended."""

    connections: int = 0
    open: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def count(self, entry: Entry, *, live: bool = False) -> None:
        self.connections += 1
        self.open += live and entry.is_open
        self.bytes_in += entry.sent.bytes
        self.bytes_out += entry.received.bytes

    def merge(self, other: Tally) -> None:
        self.connections += other.connections
        self.open += other.open
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out

    def copy(self) -> Tally:
        return Tally(self.connections, self.open, self.bytes_in, self.bytes_out)

    def __bool__(self) -> bool:
        return self.connections > 0


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """``current``: it gets new connections. One that does not has a row for as long as connections are open on it."""

    address: str
    port: int
    current: bool
    total: Tally


@dataclass(frozen=True, slots=True)
class PortRow:
    """A Service port. ``gone``: the part of ``total`` that was with endpoints that have no row any more.

    ``exists``: False once the Service or this port of it was deleted.
    """

    namespace: str
    service: str
    port_name: str
    port: int
    protocol: str
    exists: bool
    total: Tally
    endpoints: tuple[EndpointRow, ...]
    gone: Tally


@dataclass(frozen=True, slots=True)
class Report:
    """``since`` and ``at``: seconds since the epoch. ``lost``: how many connections ended unheard; if any, all that is
    said here is "at least". ``forgotten``: the sum over Services deleted long ago. ``problems``: what is not counted.
    """

    since: float
    at: float
    ports: tuple[PortRow, ...] = ()
    forgotten: Tally = field(default_factory=Tally)
    lost: int = 0
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Port:
    """One Service port. ``tallies``: of ``pool``, and of some that left. ``places``: where it listens, or did."""

    number: int = 0
    protocol: str = ""
    exists: bool = True
    pool: frozenset[Address] = frozenset()
    places: dict[Place, None] = field(default_factory=dict)
    tallies: dict[Address, Tally] = field(default_factory=dict)
    gone: Tally = field(default_factory=Tally)

    def settle(self, *, keep: int) -> None:
        """Add up endpoints that left, but for the ``keep`` that came last."""
        left = [address for address in self.tallies if address not in self.pool]
        silent = [address for address in left if not self.tallies[address]]
        spoken = [address for address in left if self.tallies[address]]
        for address in (*silent, *spoken[: max(0, len(spoken) - keep)]):
            self.gone.merge(self.tallies.pop(address))


class Ledger:
    """Adds up ended connections by Service port and endpoint. Not for several threads at once."""

    def __init__(self) -> None:
        self._services: Mapping[ServiceName, ServiceFrontends] = {}
        self._node: frozenset[bytes] = frozenset()
        self._ports: dict[PortName, _Port] = {}
        self._names: dict[ServiceName, set[PortName]] = {}  # of those that exist
        self._places: dict[Place, PortName] = {}
        self._gone: dict[PortName, None] = {}  # oldest first
        self._forgotten = Tally()

    def follow(self, frontends: Frontends, changed: Collection[ServiceName] | None = None) -> None:
        """Services are now these. ``changed``: which may differ from the last time; None: it is looked which do."""
        before, self._services = self._services, frontends.services
        self._node = frozenset(_node_addresses(frontends.node.addresses))
        for name in _differing(before, self._services) if changed is None else changed:
            service = self._services.get(name)
            self._take(name, service.ports if service is not None else ())

    def add(self, ended: Iterable[Entry]) -> int:
        """Connections that have ended; those of no Service are left out. Returns how many there were, of any."""
        number = 0
        for number, entry in enumerate(ended, 1):  # noqa: B007 - the last number is the answer
            if (name := self._owner(entry)) is not None:
                port = self._ports[name]
                tally = port.tallies.get((entry.reply.source, entry.reply.source_port), port.gone)
                tally.count(entry)
        return number

    def rows(self, live: Iterable[Entry], *, namespace: str = "", service: str = "") -> tuple[PortRow, ...]:
        """Everything counted so far and these ``live`` connections, by Service port; empty: of all."""
        opened: dict[PortName, dict[Address, Tally]] = {}
        for entry in live:
            if (name := self._owner(entry)) is not None:
                endpoint = (entry.reply.source, entry.reply.source_port)
                opened.setdefault(name, {}).setdefault(endpoint, Tally()).count(entry, live=True)
        wanted = (name for name in self._ports if namespace in ("", name.namespace) and service in ("", name.name))
        return tuple(_make_row(name, self._ports[name], opened.get(name, {})) for name in sorted(wanted))

    @property
    def forgotten(self) -> Tally:
        return self._forgotten.copy()

    def _owner(self, entry: Entry) -> PortName | None:
        destination = entry.original.destination
        exact = self._places.get((entry.protocol, destination, entry.original.destination_port))
        if exact is not None:
            return exact
        name = self._places.get((entry.protocol, b"", entry.original.destination_port))
        if name is None or destination in self._node:
            return name
        endpoint = (entry.reply.source, entry.reply.source_port)
        return name if endpoint in self._ports[name].tallies else None

    def _take(self, service: ServiceName, ports: Iterable[PortFrontends]) -> None:
        families: dict[PortName, list[PortFrontends]] = {}
        for port in ports:
            families.setdefault(port.name, []).append(port)
        before = self._names.pop(service, set())
        if families:
            self._names[service] = set(families)
        for name in sorted(before - families.keys()):
            self._retire(name)
        for name, group in families.items():
            self._update(name, group)

    def _update(self, name: PortName, group: Sequence[PortFrontends]) -> None:
        port = self._ports.setdefault(name, _Port())
        self._gone.pop(name, None)
        port.exists, port.pool, places = True, frozenset(_endpoints(group)), dict.fromkeys(_places(group))
        port.number, port.protocol = _number(group), group[0].protocol
        for address in sorted(port.pool):
            port.tallies.setdefault(address, Tally())
        port.settle(keep=DEPARTED)
        self._claim(name, port, places)

    def _claim(self, name: PortName, port: _Port, places: dict[Place, None]) -> None:
        """``port`` listens at these places now. The latest who does has a place; those left behind it keeps for a
        while."""
        for place in places:
            owner = self._places.get(place, name)
            if owner != name:
                self._ports[owner].places.pop(place)
            self._places[place] = name
        old = [place for place in port.places if place not in places]
        for place in old[: max(0, len(old) - OLD_PLACES)]:
            del self._places[place], port.places[place]
        port.places |= places

    def _retire(self, name: PortName) -> None:
        """A Service port that is no more. Its connections may go on, or end only now."""
        port = self._ports[name]
        port.exists, port.pool = False, frozenset()
        port.settle(keep=DEPARTED)
        self._gone[name] = None
        while len(self._gone) > GONE:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._forget(self._ports.pop(oldest))

    def _forget(self, port: _Port) -> None:
        port.settle(keep=0)
        self._forgotten.merge(port.gone)
        for place in port.places:
            del self._places[place]


def _differing(
    before: Mapping[ServiceName, ServiceFrontends], after: Mapping[ServiceName, ServiceFrontends]
) -> list[ServiceName]:
    """What did not change is the same object (``rules.policy.Memo``)."""
    found = [name for name, service in after.items() if before.get(name) is not service]
    return found + [name for name in before if name not in after]


def _node_addresses(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        with contextlib.suppress(ValueError):  # a name: nothing that a packet could be sent to
            yield parse_address(text).packed


def _places(group: Sequence[PortFrontends]) -> Iterator[Place]:
    for port in group:
        number = PROTOCOLS[port.protocol]
        for frontend in port.frontends:
            yield number, pack(frontend.address) if frontend.address is not None else b"", frontend.port


def _endpoints(group: Sequence[PortFrontends]) -> Iterator[Address]:
    for port in group:
        for backend in (*port.cluster, *port.local):
            yield pack(backend.address), backend.port


def _number(group: Sequence[PortFrontends]) -> int:
    """The Service's own port number; its NodePort where it listens nowhere else; 0: nowhere."""
    frontends = [frontend for port in group for frontend in port.frontends]
    own = (frontend.port for frontend in frontends if frontend.kind is not Kind.NODE_PORT)
    return next(own, next((frontend.port for frontend in frontends), 0))


def _make_row(name: PortName, port: _Port, opened: Mapping[Address, Tally]) -> PortRow:
    endpoints, gone, total = [], port.gone.copy(), port.gone.copy()
    for address in sorted(port.tallies.keys() | opened.keys() if opened else port.tallies):
        tally = port.tallies[address].copy() if address in port.tallies else Tally()
        if address in opened:
            tally.merge(opened[address])
        total.merge(tally)
        if (current := address in port.pool) or tally.open:
            endpoints.append(EndpointRow(text_of(address[0]), address[1], current, tally))
        else:
            gone.merge(tally)
    return PortRow(*name[:2], name.port, port.number, port.protocol, port.exists, total, tuple(endpoints), gone)
