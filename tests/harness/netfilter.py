"""A node in small, for tests of the dataplane: namespaces, routes, servers; no podwire in it.

```
outside 192.0.2.1 --- 192.0.2.2 node --- pods  a 10.244.0.1, b 10.244.0.2, c 10.244.1.3 (counts as another node's)
```
Each pod has a link of its own and is routed (no bridge), so every packet passes the node's netfilter.
"""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from agent.shell import run
from netns import namespaces

T = TypeVar("T")
PODS = {"a": "10.244.0.1", "b": "10.244.0.2", "c": "10.244.1.3"}
NODE_IP, OUTSIDE_IP, GATEWAY = "192.0.2.2", "192.0.2.1", "10.244.0.254"
_CHANGING = re.compile(r"^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+", re.MULTILINE)


@dataclass(frozen=True)
class MiniNode:
    """``inside(who, action)`` runs something in the namespace of ``node``, ``outside`` or a pod."""

    tag: str

    def name(self, who: str) -> str:
        return f"pwt-{self.tag}-{who}"

    def inside(self, who: str, action: Callable[[], T]) -> T:
        return namespaces.inside(self.name(who), action)

    def run(self, *argv: str, who: str = "node", stdin: str = "") -> str:
        return self.inside(who, lambda: run(argv, stdin=stdin.encode()).decode())

    def saved(self) -> str:
        """Everything that netfilter holds, counters and dates aside."""
        parts = ["iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "nft list ruleset"]
        return _CHANGING.sub("", "".join(self.run(*part.split()) for part in parts))

    def ask(self, who: str, address: str, port: int) -> str:
        """One TCP connection; what the server says: its name and the client's address."""
        return self.inside(who, lambda: _ask_tcp(address, port))

    def udp_client(self, who: str) -> socket.socket:
        sock = self.inside(who, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.settimeout(5)
        return sock


@contextmanager
def mini_node(*, servers: int = 8080, tag: str = "") -> Iterator[MiniNode]:
    """The namespaces, with a TCP and a UDP server on port ``servers`` in every pod. ``tag``: in their names."""
    node = MiniNode(tag or secrets.token_hex(3))
    with ExitStack() as stack:
        for who in ("node", "outside", *PODS):
            stack.callback(namespaces.remove, node.name(who))
            namespaces.ensure(node.name(who))
            node.run("ip", "link", "set", "lo", "up", who=who)
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        _link(node, "outside", OUTSIDE_IP, gateway=NODE_IP)
        node.run("ip", "route", "add", "default", "via", OUTSIDE_IP, "dev", "to-outside", "onlink")
        for who, address in PODS.items():
            _link(node, who, address, gateway=GATEWAY)
        for who in PODS:
            stack.enter_context(_serving(node, who, servers))
        yield node


def _link(node: MiniNode, who: str, address: str, *, gateway: str) -> None:
    peer = ("peer", "name", "eth0", "netns", node.name(who))
    node.run("ip", "link", "add", f"to-{who}", "type", "veth", *peer)
    node.run("ip", "address", "add", f"{gateway}/32", "dev", f"to-{who}")
    node.run("ip", "link", "set", f"to-{who}", "up")
    node.run("ip", "route", "add", f"{address}/32", "dev", f"to-{who}", "src", gateway)
    node.run("ip", "address", "add", f"{address}/32", "dev", "eth0", who=who)
    node.run("ip", "link", "set", "eth0", "up", who=who)
    node.run("ip", "route", "add", "default", "via", gateway, "dev", "eth0", "onlink", who=who)


@contextmanager
def _serving(node: MiniNode, who: str, port: int) -> Iterator[None]:
    tcp = node.inside(who, lambda: socket.create_server(("0.0.0.0", port)))
    udp = node.inside(who, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("0.0.0.0", port))
    stop = threading.Event()
    threads = [
        threading.Thread(target=_serve, args=(tcp, who, stop, _answer_tcp)),
        threading.Thread(target=_serve, args=(udp, who, stop, _answer_udp)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        tcp.close()
        udp.close()


def _serve(sock: socket.socket, who: str, stop: threading.Event, answer: Callable[[socket.socket, str], None]) -> None:
    sock.settimeout(0.1)
    while not stop.is_set():
        try:
            answer(sock, who)
        except (TimeoutError, ConnectionError):
            continue


def _answer_tcp(sock: socket.socket, who: str) -> None:
    connection, (client, _) = sock.accept()
    with connection:
        connection.sendall(f"{who} {client}".encode())


def _answer_udp(sock: socket.socket, who: str) -> None:
    _, client = sock.recvfrom(100)
    sock.sendto(f"{who} {client[0]}".encode(), client)


def _ask_tcp(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=5) as sock:
        return sock.recv(100).decode()
