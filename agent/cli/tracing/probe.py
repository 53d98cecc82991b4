"""Real packets: from a pod, from the node, or from somebody outside who exists only as long as it takes.

The outsider is a network namespace with one veth link into the node's and an address of 198.18.0.0/15 (RFC 2544:
networks for tests; IPv6: 2001:2::/48, RFC 5180). Only a host route to that one address is added to the node; both ends
know each other's MAC address, so that no address of the node is needed on the link. It is removed afterwards; what a
crash left behind, the next trace replaces.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.cli.tracing.node import Place, TraceFailure
from netns import namespaces
from netns.errors import NetnsError
from rules.snapshot import Family

LINK = "podwire-trace"
TESTS = {Family.IPV4: "198.18.0.0/15", Family.IPV6: "2001:2::/48"}
_GATEWAY = {Family.IPV4: "169.254.1.1", Family.IPV6: "fe80::1"}  # an address that nobody has: its MAC is what counts
_MAC_NODE, _MAC_OUTSIDE = "02:70:77:00:00:01", "02:70:77:00:00:02"
PATIENCE = 0.8  # seconds: less than the kernel waits before it sends a SYN again, so that one packet is sent
_SCTP = 132
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, _SCTP),
}


@dataclass(frozen=True, slots=True)
class Sender:
    """A place to send from, and the address to send with."""

    place: Place
    address: str


def outside_address(family: Family) -> str:
    """Somebody's address, another one each time: session affinity shall not know it."""
    network = ipaddress.ip_network(TESTS[family])
    return str(network[1 + secrets.randbelow(min(network.num_addresses, 1 << 17) - 2)])


@contextmanager
def alone(node: Place) -> Iterator[None]:
    """One live trace at a time on a node: they would take each other's link and table away. Raises TraceFailure."""
    lock = node.inside(lambda: socket.socket(socket.AF_UNIX))  # abstract names belong to a network namespace
    with lock:
        try:
            lock.bind(f"\0{LINK}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise TraceFailure("another 'podwire trace --live' is busy on this node: try again later") from error
            raise
        yield


@contextmanager
def outsider(node: Place, address: str) -> Iterator[Sender]:
    """Somebody beyond the node with this address."""
    name = f"podwire-trace-{(node.netns or 'host').rpartition('/')[2]}"
    _remove(node, name)
    try:
        namespaces.ensure(name)
        _join(node, name, address)
        yield Sender(Place(name), address)
    finally:
        _remove(node, name)


def pod_namespace(uid: str, address: str) -> Place:
    """The network namespace of a pod: podwire's own is called after its UID; else the one that has its address, as on
    a node where others run the pods. Raises TraceFailure."""
    for name in namespaces.names():
        if uid and name.startswith(f"podwire-{uid[:8]}-"):
            return Place(name)
    found = [name for name in namespaces.names() if not name.startswith("podwire-") and _has(name, address)]
    if len(found) == 1:
        return Place(found[0])
    why = f"several have its address: {', '.join(found)}" if found else "none of `ip netns list` has its address"
    raise TraceFailure(f"cannot find the network namespace of the pod with address {address}: {why}")


def send(sender: Sender, sock: socket.socket, destination: str, port: int) -> str:
    """One connection attempt, or one datagram; what came of it, as a clause. Raises TraceFailure."""
    try:
        sock.settimeout(PATIENCE)
        sender.place.inside(lambda: sock.connect((destination, port)))
        if sock.type == socket.SOCK_DGRAM:
            sock.send(b"podwire trace\n")
            sock.recv(1)
            return "answered"
        return "connected"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM):
            return f"not sent: {error.strerror}"
        raise TraceFailure(f"cannot send to {destination}: {error.strerror}") from error


def make_socket(sender: Sender, protocol: str) -> socket.socket:
    """A socket of the sender's namespace, bound to its address and a port of its own. Raises TraceFailure."""
    kind, number = _SOCKETS[protocol]
    family = _FAMILIES[Family(ipaddress.ip_address(sender.address).version)]

    def make() -> socket.socket:
        sock = socket.socket(family, kind, number)
        try:
            sock.bind((sender.address, 0))
        except OSError:
            sock.close()
            raise
        return sock

    try:
        return sender.place.inside(make)
    except OSError as error:
        raise TraceFailure(f"cannot send {protocol.upper()} from {sender.address}: {error.strerror}") from error


def _join(node: Place, name: str, address: str) -> None:
    """The link, and on each side the way to the other."""
    family = Family(ipaddress.ip_address(address).version)
    ip, host, gateway = ("ip", f"-{family.value}"), f"{address}/{32 if family == 4 else 128}", _GATEWAY[family]
    peer = ("peer", "name", "eth0", "netns", name, "address", _MAC_OUTSIDE)
    node.run("ip", "link", "add", LINK, "address", _MAC_NODE, "type", "veth", *peer)
    node.run("ip", "link", "set", LINK, "up")
    there = Place(name)
    there.run("ip", "link", "set", "lo", "up")
    nodad = ("nodad",) if family is Family.IPV6 else ()
    there.run(*ip, "address", "add", host, "dev", "eth0", *nodad)
    there.run("ip", "link", "set", "eth0", "up")
    there.run(*ip, "neighbor", "replace", gateway, "lladdr", _MAC_NODE, "dev", "eth0", "nud", "permanent")
    there.run(*ip, "route", "add", "default", "via", gateway, "dev", "eth0", "onlink")
    node.run(*ip, "route", "add", host, "dev", LINK)
    node.run(*ip, "neighbor", "replace", address, "lladdr", _MAC_OUTSIDE, "dev", LINK, "nud", "permanent")


def _has(name: str, address: str) -> bool:
    try:
        links = json.loads(Place(name).run("ip", "-j", "address", "show"))
    except NetnsError:
        if namespaces.exists(name):
            raise
        return False  # it went while we looked
    return any(info.get("local") == address for link in links for info in link.get("addr_info", []))


def _remove(node: Place, name: str) -> None:
    """The link goes first: a namespace is destroyed some time after its name is gone."""
    if node.inside(lambda: LINK in (found for _, found in socket.if_nameindex())):
        node.run("ip", "link", "delete", LINK)
    namespaces.remove(name)
