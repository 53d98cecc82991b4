"""The kernel's conntrack messages (nfnetlink), read and written. Pure: bytes in, values out, and the other way round.

```
nlmsghdr  16 bytes   length, type (subsystem 1 = conntrack, and NEW, GET or DELETE), flags, sequence, port id
nfgenmsg   4 bytes   family, version, resource id
attributes           u16 length, u16 type, value, padded to 4 bytes; some hold attributes themselves:
    TUPLE_ORIG   how the client addressed its first packet        IP { source, destination }, PROTO { number, ports }
    TUPLE_REPLY  how answers look: their source is the endpoint   the same
    STATUS, ID, ZONE, PROTOINFO { TCP { STATE } }, COUNTERS_ORIG and COUNTERS_REPLY { PACKETS, BYTES }
```
Header fields are in the machine's byte order, what conntrack says in the network's. Source:
include/uapi/linux/netlink.h, include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.

A busy node ends thousands of connections a second, and each is a message: so an ``Entry`` is a named tuple, addresses
stay packed until somebody wants to read them, and the parts that every message has in the same form (a direction of a
protocol with ports; a pair of counters) are read at a stroke where they do have it, attribute by attribute where not.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from rules.snapshot import Family

HEADER = struct.Struct("=IHHII")
NFGEN = struct.Struct("=BBH")
ATTRIBUTE = struct.Struct("=HH")
BE16, BE32, BE64, INT = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q"), struct.Struct("=i")

ERROR, DONE = 2, 3  # message types of netlink itself
NEW, GET, DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*; an entry listed is a NEW
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO = 1, 2, 3, 4
COUNTERS_ORIG, COUNTERS_REPLY, ID, ZONE, STATUS_MASK = 9, 10, 12, 18, 26
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTOINFO_TCP, TCP_STATE, PACKETS, BYTES = 1, 1, 1, 2
PROTO_NUM, SOURCE_PORT, DESTINATION_PORT = 1, 2, 3
ADDRESSES = {Family.IPV4: (1, 2), Family.IPV6: (3, 4)}  # CTA_IP_V4_SRC, _DST and CTA_IP_V6_SRC, _DST
NESTED, TYPE_MASK = 0x8000, 0x3FFF

DST_NAT, DYING = 1 << 5, 1 << 9  # bits of STATUS: enum ip_conntrack_status
PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
NAMES: dict[int, str] = {int(number): name for name, number in PROTOCOLS.items()}
ENDED_TCP = frozenset(
    (6, 7, 8)
)  # LAST_ACK, TIME_WAIT, CLOSE: kept to recognise late packets, not because they are open

_SIZES = {Family.IPV4: 4, Family.IPV6: 16}  # of an address, in bytes
_FAMILIES = {int(socket.AF_INET): Family.IPV4, int(socket.AF_INET6): Family.IPV6}
_NUMBERS = {family: number for number, family in _FAMILIES.items()}


class WireError(ValueError):
    """These bytes are no conntrack message."""


class Direction(NamedTuple):
    """The packets of one direction: packed addresses (4 or 16 bytes), and ports (0 where a protocol has none)."""

    source: bytes
    destination: bytes
    source_port: int = 0
    destination_port: int = 0


class Counters(NamedTuple):
    """Packets and bytes, as lengths of IP packets, headers included. Zero for entries older than the accounting."""

    packets: int = 0
    bytes: int = 0


class Entry(NamedTuple):
    """One tracked connection.

    ``id`` tells it from others that had the same addresses before or will have them later (0: not known). The kernel
    makes it from the addresses and the place in memory, so that it may come again, if rarely. ``tcp_state``: enum
    tcp_conntrack (0: not TCP, or not told).
    """

    family: Family
    protocol: int
    original: Direction
    reply: Direction
    id: int = 0
    status: int = 0
    zone: int = 0
    tcp_state: int = 0
    sent: Counters = Counters()
    received: Counters = Counters()

    @property
    def protocol_name(self) -> str:
        return NAMES.get(self.protocol, str(self.protocol))

    @property
    def destination(self) -> tuple[str, int]:
        """Where the client wanted to go: a Service's address and port, if it is a Service's connection."""
        return text_of(self.original.destination), self.original.destination_port

    @property
    def endpoint(self) -> tuple[str, int]:
        """Who answers."""
        return text_of(self.reply.source), self.reply.source_port

    @property
    def is_open(self) -> bool:
        return self.tcp_state not in ENDED_TCP

    def __str__(self) -> str:
        (to, port), (at, at_port) = self.destination, self.endpoint
        source = text_of(self.original.source)
        return f"{self.protocol_name} {source}:{self.original.source_port} -> {to}:{port} ({at}:{at_port})"


def text_of(packed: bytes) -> str:
    """An address as the policy writes it."""
    return socket.inet_ntoa(packed) if len(packed) == _SIZES[Family.IPV4] else _text_of_ipv6(packed)


@functools.lru_cache(maxsize=1 << 16)
def _text_of_ipv6(packed: bytes) -> str:
    return str(ipaddress.IPv6Address(packed))  # the C library writes some of them otherwise


def pack(address: str) -> bytes:
    """The packed form of an address as the policy writes it."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The messages of one datagram: type, sequence number, where the body begins, where it ends. Raises WireError."""
    at, size = 0, len(data)
    while at < size:
        if size - at < HEADER.size:
            raise WireError(f"netlink message cut short: {size - at} bytes left of a header of {HEADER.size}")
        length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= size - at:
            raise WireError(f"netlink message says it has {length} bytes where {size - at} are left")
        yield kind, sequence, at + HEADER.size, at + length
        at += length + 3 & ~3


def parse_error(data: bytes, start: int, end: int) -> int:
    """The error number of an ERROR or DONE message; 0: all is well."""
    if end - start < INT.size:
        return 0  # a DONE without a code
    code: int = INT.unpack_from(data, start)[0]
    return -code


def parse_entry(data: bytes, start: int = 0, end: int | None = None) -> Entry:
    """The entry that a NEW or DELETE message tells of; its body is from ``start`` to ``end``. Raises WireError."""
    stop = len(data) if end is None else end
    if stop - start < NFGEN.size or data[start] not in _FAMILIES:
        raise WireError("no conntrack message of IPv4 or IPv6")
    found = _attributes(data, start + NFGEN.size, stop)
    if TUPLE_ORIG not in found or TUPLE_REPLY not in found:
        raise WireError("a conntrack entry without addresses")
    family = _FAMILIES[data[start]]
    protocol, original = _parse_tuple(data, *found[TUPLE_ORIG], family)
    return Entry(
        family,
        protocol,
        original,
        _parse_tuple(data, *found[TUPLE_REPLY], family)[1],
        _number(4, data, found.get(ID)),
        _number(4, data, found.get(STATUS)),
        _number(2, data, found.get(ZONE)),
        _parse_tcp_state(data, found.get(PROTOINFO)),
        _parse_counters(data, found.get(COUNTERS_ORIG)),
        _parse_counters(data, found.get(COUNTERS_REPLY)),
    )


def encode_dump(family: Family | None, *, status: int = 0, sequence: int = 0) -> bytes:
    """Ask for all entries of a family (None: of all), or those that have these bits of STATUS.

    Kernels before 5.18 do not know the filter by status and send everything.
    """
    wanted = BE32.pack(status)
    attributes = _attribute(STATUS, wanted) + _attribute(STATUS_MASK, wanted) if status else b""
    return _message(GET, REQUEST | DUMP, family, attributes, sequence)


def encode_delete(entry: Entry, *, sequence: int = 0) -> bytes:
    """Ask to delete this entry: by the addresses of its original direction and, where known, its id, so that not a
    younger one of the same addresses goes. (Without addresses this message would mean all entries.)"""
    attributes = _attribute(TUPLE_ORIG | NESTED, _tuple(entry))
    if entry.zone:
        attributes += _attribute(ZONE, BE16.pack(entry.zone))
    if entry.id:
        attributes += _attribute(ID, BE32.pack(entry.id))
    return _message(DELETE, REQUEST | ACK, entry.family, attributes, sequence)


def encode_entry(entry: Entry, *, kind: int = NEW, sequence: int = 0) -> bytes:
    """An entry as the kernel tells of it. The kernel never gets such a message from us; tests and benchmarks do."""
    reply = entry._replace(original=entry.reply)
    attributes = _attribute(TUPLE_ORIG | NESTED, _tuple(entry)) + _attribute(TUPLE_REPLY | NESTED, _tuple(reply))
    if entry.zone:
        attributes += _attribute(ZONE, BE16.pack(entry.zone))
    attributes += _attribute(ID, BE32.pack(entry.id)) + _attribute(STATUS, BE32.pack(entry.status))
    for where, counters in ((COUNTERS_ORIG, entry.sent), (COUNTERS_REPLY, entry.received)):
        pair = _attribute(PACKETS, BE64.pack(counters.packets)) + _attribute(BYTES, BE64.pack(counters.bytes))
        attributes += _attribute(where | NESTED, pair)
    if entry.tcp_state:
        state = _attribute(PROTOINFO_TCP | NESTED, _attribute(TCP_STATE, bytes((entry.tcp_state,))))
        attributes += _attribute(PROTOINFO | NESTED, state)
    return _message(kind, 0, entry.family, attributes, sequence)


def _attributes(data: bytes, at: int, stop: int) -> dict[int, tuple[int, int]]:
    """Where each attribute's value begins and ends, by type."""
    found: dict[int, tuple[int, int]] = {}
    header = ATTRIBUTE.unpack_from
    while stop - at >= 4:
        length, kind = header(data, at)
        if not 4 <= length <= stop - at:
            raise WireError(f"netlink attribute says it has {length} bytes where {stop - at} are left")
        found[kind & TYPE_MASK] = (at + 4, at + length)
        at += length + 3 & ~3
    return found


def _parse_tuple(data: bytes, start: int, stop: int, family: Family) -> tuple[int, Direction]:
    """The protocol and the direction that TUPLE_ORIG or TUPLE_REPLY holds."""
    form, headers = _USUAL_TUPLES[family]
    if stop - start == form.size:
        ip, h1, source, h2, destination, proto, h3, number, h4, from_port, h5, to_port = form.unpack_from(data, start)
        if (ip, h1, h2, proto, h3, h4, h5) == headers:
            return number, Direction(source, destination, from_port, to_port)
    return _parse_unusual_tuple(data, start, stop, family)


def _parse_unusual_tuple(data: bytes, start: int, stop: int, family: Family) -> tuple[int, Direction]:
    parts = _attributes(data, start, stop)
    addresses, proto = _attributes(data, *_need(TUPLE_IP, parts)), _attributes(data, *_need(TUPLE_PROTO, parts))
    number = _need(PROTO_NUM, proto)
    places = [_need(kind, addresses) for kind in ADDRESSES[family]]
    source, destination = (data[begin:end] for begin, end in places)
    if number[0] == number[1] or {len(source), len(destination)} != {_SIZES[family]}:
        raise WireError(f"a direction without IPv{family:d} addresses or protocol")
    ports = (_number(2, data, proto.get(kind)) for kind in (SOURCE_PORT, DESTINATION_PORT))
    return data[number[0]], Direction(source, destination, *ports)


def _parse_counters(data: bytes, place: tuple[int, int] | None) -> Counters:
    if place is None:
        return Counters()
    start, stop = place
    if stop - start == _USUAL_COUNTERS.size:
        h1, packets, h2, size = _USUAL_COUNTERS.unpack_from(data, start)
        if (h1, h2) == _COUNTER_HEADERS:
            return Counters(packets, size)
    found = _attributes(data, start, stop)
    return Counters(_number(8, data, found.get(PACKETS)), _number(8, data, found.get(BYTES)))


def _parse_tcp_state(data: bytes, place: tuple[int, int] | None) -> int:
    if place is None:
        return 0
    start, stop = place
    if stop - start >= _USUAL_STATE.size:
        kind, header, state = _USUAL_STATE.unpack_from(data, start)
        if (kind, header) == _STATE_HEADERS:
            return int(state)
    tcp = _attributes(data, start, stop).get(PROTOINFO_TCP)
    found = _attributes(data, *tcp).get(TCP_STATE) if tcp is not None else None
    return data[found[0]] if found is not None and found[0] < found[1] else 0


def _number(size: int, data: bytes, place: tuple[int, int] | None) -> int:
    if place is None:
        return 0
    start, stop = place
    if stop - start != size:
        raise WireError(f"a number of {stop - start} bytes where {size} are expected")
    return int.from_bytes(data[start:stop])


def _need(kind: int, found: dict[int, tuple[int, int]]) -> tuple[int, int]:
    if kind not in found:
        raise WireError(f"a direction without attribute {kind}")
    return found[kind]


def _usual_header(length: int, kind: int) -> int:
    """An attribute's header, as it looks in a number of network order."""
    found: int = BE32.unpack(ATTRIBUTE.pack(length, kind))[0]
    return found


def _usual_tuple(family: Family) -> tuple[struct.Struct, tuple[int, ...]]:
    """The form in which the kernel writes a direction of TCP, UDP or SCTP, and the headers in it."""
    size, (source, destination) = _SIZES[family], ADDRESSES[family]
    ip = _usual_header(4 + 2 * (4 + size), TUPLE_IP | NESTED), _usual_header(4 + size, source)
    proto = _usual_header(28, TUPLE_PROTO | NESTED), _usual_header(5, PROTO_NUM), _usual_header(6, SOURCE_PORT)
    headers = (*ip, _usual_header(4 + size, destination), *proto, _usual_header(6, DESTINATION_PORT))
    return struct.Struct(f">II{size}sI{size}sIIB3xIH2xIH2x"), headers


_USUAL_TUPLES = {family: _usual_tuple(family) for family in Family}
_USUAL_STATE = struct.Struct("=2xHIB3x")
_STATE_HEADERS = (PROTOINFO_TCP | NESTED, int.from_bytes(ATTRIBUTE.pack(5, TCP_STATE), sys.byteorder))
_USUAL_COUNTERS = struct.Struct(">IQIQ")
_COUNTER_HEADERS = (_usual_header(12, PACKETS), _usual_header(12, BYTES))


def _tuple(entry: Entry) -> bytes:
    """The value of TUPLE_ORIG."""
    direction, (source, destination) = entry.original, ADDRESSES[entry.family]
    addresses = _attribute(source, direction.source) + _attribute(destination, direction.destination)
    proto = _attribute(PROTO_NUM, bytes((entry.protocol,)))
    proto += _attribute(SOURCE_PORT, BE16.pack(direction.source_port))
    proto += _attribute(DESTINATION_PORT, BE16.pack(direction.destination_port))
    return _attribute(TUPLE_IP | NESTED, addresses) + _attribute(TUPLE_PROTO | NESTED, proto)


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, family: Family | None, attributes: bytes, sequence: int) -> bytes:
    body = NFGEN.pack(_NUMBERS[family] if family is not None else socket.AF_UNSPEC, 0, 0) + attributes
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body
