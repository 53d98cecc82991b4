"""Netfilter's own trace of a packet: which rule of which chain it met, told by the kernel.

Packets whose ``nf_trace`` bit is set are traced by both rule engines of Linux, each in its own way:

- nf_tables (iptables-nft) sends NFT_MSG_TRACE to the netlink group NFNLGRP_NFTRACE: table, chain, and the *handle* of
  the rule (linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c);
- ip_tables (iptables-legacy) logs ``TRACE: table:chain:rule:number``, through nfnetlink_log if that is this namespace's
  logger (net/ipv4/netfilter/ip_tables.c, trace_packet; net.netfilter.nf_log.2).

In both, a rule appears exactly if it matched. The bit is set by a private nftables table, for one source address and
port, before any other rule; it does not touch anybody's rules, and taking it away leaves nothing. (``-t raw -j TRACE``
would do for legacy, but leave an empty table behind for ever.)
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.cli.tracing.node import Place, TraceFailure
from rules.iptables.engines import Variant
from rules.snapshot import Family

TABLE = "podwire-trace"
PRIORITY = -350  # before raw (-300), and so before connection tracking

Kind = Literal["rule", "return", "policy"]

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 270, 1
_NFNLGRP_NFTRACE = 9
_TRACE_MESSAGE = (10 << 8) | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_LOG_MESSAGE = 4 << 8  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_LOG_CONFIG = (4 << 8) | 1
_KINDS: dict[int, Kind] = {1: "policy", 2: "return", 3: "rule"}
_NAMES = {Family.IPV4: ("ip", "ip", 2), Family.IPV6: ("ip6", "ip6", 10)}  # nft's table and match, nf_log's protocol
_FAMILY = {2: "ip", 10: "ip6", 1: "inet", 5: "netdev"}  # NFPROTO_*
_FIRST = {"tcp": "tcp flags & (syn | ack) == syn ", "udp": "", "sctp": "sctp chunk init exists "}
_HEADER = 16  # struct nlmsghdr
_GENERIC = 4  # struct nfgenmsg


@dataclass(frozen=True, slots=True)
class Event:
    """One thing the kernel tells. ``rule``: a number from 1 (legacy) or a handle (nft); 0 where it is no rule.

    ``drop``: the verdict was to drop. ``family``: nft's word for the table's.
    """

    engine: Variant
    table: str
    chain: str
    kind: Kind
    rule: int = 0
    drop: bool = False
    family: str = "ip"


@dataclass(frozen=True, slots=True)
class Flow:
    """Whose packets are traced."""

    family: Family
    protocol: str
    address: str
    port: int


class Listener:
    """Sockets in the node's namespace, open and subscribed from the moment it is made."""

    def __init__(self, place: Place, *, log: bool) -> None:
        self._sockets: list[socket.socket] = []
        try:
            for subscribe in (_subscribe_to_nft, _subscribe_to_log) if log else (_subscribe_to_nft,):
                self._sockets.append(place.inside(_open))
                subscribe(self._sockets[-1])
        except BaseException:
            self.close()
            raise

    def events(self, *, quiet: float = 0.2) -> list[Event]:
        """What was told, until nothing has been for ``quiet`` seconds (at most ten times as long)."""
        found: list[Event] = []
        end, limit = time.monotonic() + quiet, time.monotonic() + 10 * quiet
        while time.monotonic() < min(end, limit):
            for sock in self._sockets:
                for event in _receive(sock):
                    found.append(event)
                    end = time.monotonic() + quiet
            time.sleep(0.005)
        return found

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@contextmanager
def listening(place: Place, *, variant: Variant, family: Family) -> Iterator[Listener]:
    """A Listener to the engine that holds the rules; for legacy, the namespace's logger is ours meanwhile."""
    if variant == "nft":
        listener = Listener(place, log=False)
        try:
            yield listener
        finally:
            listener.close()
        return
    with _logging_to_netlink(place, family):
        listener = Listener(place, log=True)
        try:
            yield listener
        finally:
            listener.close()


@contextmanager
def traced(place: Place, flow: Flow) -> Iterator[None]:
    """The first packets of a flow have their bit set; a table left behind by a crash is replaced."""
    name = _NAMES[flow.family][0]
    place.run("nft", "-f", "-", stdin=render_table(flow))
    try:
        yield
    finally:
        place.run("nft", "delete", "table", name, TABLE)


def render_table(flow: Flow) -> str:
    """The private table as ``nft -f`` reads it. Only packets that open a connection are marked."""
    name, match, _ = _NAMES[flow.family]
    rule = f"{match} saddr {flow.address} {flow.protocol} sport {flow.port} {_FIRST[flow.protocol]}meta nftrace set 1"
    chains = "".join(
        f" chain {hook} {{ type filter hook {hook} priority {PRIORITY}; policy accept; {rule}; }}\n"
        for hook in ("prerouting", "output")
    )
    return f"add table {name} {TABLE}\ndelete table {name} {TABLE}\ntable {name} {TABLE} {{\n{chains}}}\n"


def decode(data: bytes) -> Iterator[Event]:
    """The events in what a netlink socket received; other messages are none."""
    while len(data) >= _HEADER:
        length, kind = struct.unpack_from("=IH", data)
        if length < _HEADER:
            return
        body = data[_HEADER + _GENERIC : length]
        if kind == _TRACE_MESSAGE:
            yield from _nft_event(dict(_attributes(body)))
        elif kind == _LOG_MESSAGE:
            yield from _log_event(dict(_attributes(body)), family=data[_HEADER])
        data = data[(length + 3) & ~3 :]


def _nft_event(found: dict[int, bytes]) -> Iterator[Event]:
    """NFTA_TRACE_: TABLE 1, CHAIN 2, RULE_HANDLE 3, TYPE 4, VERDICT 5 (in it: code 1), NFPROTO 15, POLICY 16."""
    kind = _KINDS.get(_number(found.get(4)))
    if kind is None or 1 not in found or 2 not in found:
        return
    verdict = dict(_attributes(found.get(5, b""))).get(1)
    dropped = _number(found.get(16)) == 0 if kind == "policy" else verdict is not None and _number(verdict) == 0
    if kind == "rule" and 3 not in found:
        kind = "return"  # the end of a chain
    yield Event(
        "nft",
        _text(found[1]),
        _text(found[2]),
        kind,
        rule=_number(found.get(3, b"")),
        drop=dropped,
        family=_FAMILY.get(_number(found.get(15)), "?"),
    )


def _log_event(found: dict[int, bytes], *, family: int) -> Iterator[Event]:
    """NFULA_PREFIX 10: ``TRACE: nat:KUBE-SERVICES:rule:3``. A chain's name may hold colons."""
    prefix = _text(found.get(10, b"")).strip()
    parts = prefix.removeprefix("TRACE: ").split(":")
    if not prefix.startswith("TRACE: ") or len(parts) < 4:
        return
    kind: Kind | None = next((kind for kind in _KINDS.values() if kind == parts[-2]), None)
    if kind is not None:
        yield Event("legacy", parts[0], ":".join(parts[1:-2]), kind, int(parts[-1]), family=_FAMILY.get(family, "?"))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink attributes: length, type (its two highest bits are flags), value, padded to four bytes."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _number(value: bytes | None) -> int:
    """Big-endian, as nfnetlink has all numbers; absent: -1."""
    return int.from_bytes(value, "big") if value is not None else -1


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")


def _subscribe_to_nft(sock: socket.socket) -> None:
    sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTRACE)


def _subscribe_to_log(sock: socket.socket) -> None:
    """Bound (NFULA_CFG_CMD 1) to group 0, to which TRACE logs; told at once (QTHRESH 5), and without the packets'
    content (MODE 2)."""
    for attribute, value in ((1, b"\x01"), (2, struct.pack(">IBB", 0, 1, 0)), (5, struct.pack(">I", 1))):
        _configure(sock, attribute, value)


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    sock.bind((0, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.setblocking(False)
    return sock


def _configure(sock: socket.socket, attribute: int, value: bytes) -> None:
    """One setting of log group 0, acknowledged."""
    content = struct.pack("=HH", 4 + len(value), attribute) + value + b"\0" * (-len(value) % 4)
    body = struct.pack(">BBH", 0, 0, 0) + content
    sock.setblocking(True)
    sock.send(struct.pack("=IHHII", _HEADER + len(body), _LOG_CONFIG, 5, 1, 0) + body)  # NLM_F_REQUEST | NLM_F_ACK
    (code,) = struct.unpack_from("=i", sock.recv(4096), _HEADER)
    sock.setblocking(False)
    if code in (-errno.EBUSY, -errno.EPERM):  # EPERM: somebody else has bound it
        raise TraceFailure(
            "cannot listen to the kernel's trace: another program (ulogd?) has log group 0 of this namespace"
        )
    if code:
        raise TraceFailure(
            f"cannot listen to the kernel's trace: nfnetlink_log says {errno.errorcode.get(-code, code)}"
        )


def _receive(sock: socket.socket) -> Iterator[Event]:
    while True:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # more was told than there was room for
                raise TraceFailure("the kernel told more than could be listened to: try again") from error
            raise
        yield from decode(data)


@contextmanager
def _logging_to_netlink(place: Place, family: Family) -> Iterator[None]:
    """nfnetlink_log as this namespace's logger of one protocol, and afterwards what was there before."""
    file = Path(f"/proc/sys/net/netfilter/nf_log/{_NAMES[family][2]}")

    def put(value: str) -> str:
        before = file.read_text().strip()
        file.write_text(value)
        return before

    try:
        before = place.inside(lambda: put("nfnetlink_log"))
    except OSError as error:
        raise TraceFailure(f"cannot listen to the kernel's trace: {file}: {error.strerror}") from error
    try:
        yield
    finally:
        place.inside(lambda: put(before))
