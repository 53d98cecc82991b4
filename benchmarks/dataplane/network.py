"""A node without podwire, whose neighbours answer: the place where a dataplane is measured, in namespaces of its own.

```
outside 192.0.2.1 --- 192.0.2.2  node  10.255.0.254 --- 10.255.0.1 client, a pod
                                   |
                                   `--- pods: every address from 10.128.0.0 to 10.239.255.255
```
The last one is a single namespace to which all these addresses are local. So each endpoint is a real listener, which
answers with the address it was reached at, and 150,000 of them are a route.
"""

from __future__ import annotations

import multiprocessing
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from agent.shell import run
from benchmarks.dataplane.world import ENDPOINT_PORT
from netns import namespaces

T = TypeVar("T")
NODE_IP, OUTSIDE_IP, CLIENT_IP = "192.0.2.2", "192.0.2.1", "10.255.0.1"
_GATEWAYS = {"outside": NODE_IP, "client": "10.255.0.254", "pods": "10.255.0.253"}
_ADDRESSES = {"outside": OUTSIDE_IP, "client": CLIENT_IP, "pods": "10.255.0.2"}
_ANSWERED = ("10.128.0.0/10", "10.192.0.0/11", "10.224.0.0/12")
KNOCK_TIMEOUT = 0.05  # seconds; an answer takes 0.1 ms


@dataclass(frozen=True)
class Network:
    """``who`` is ``node``, ``client``, ``outside`` or ``pods``."""

    tag: str
    closed: threading.Event = field(default_factory=threading.Event)

    def name(self, who: str) -> str:
        return f"pwt-{self.tag}-{who}"

    def inside(self, who: str, action: Callable[[], T]) -> T:
        return namespaces.inside(self.name(who), action)

    def run(self, *argv: str, who: str = "node", stdin: str = "") -> str:
        return self.inside(who, lambda: run(argv, stdin=stdin.encode(), timeout=300.0)).decode()

    def sockets(self, who: str, count: int) -> list[socket.socket]:
        """TCP sockets that belong to a namespace, wherever they are used."""
        return self.inside(who, lambda: [socket.socket() for _ in range(count)])

    def wait_for(self, accept: Callable[[str], bool], address: str, port: int, *, who: str, seconds: float) -> float:
        """The moment (time.monotonic) of the first connection whose answer is accepted; one is tried every ms."""

        def knock() -> float:
            deadline = time.monotonic() + seconds
            while not accept(_ask(address, port)):
                if self.closed.is_set() or time.monotonic() > deadline:
                    raise TimeoutError(f"{address}:{port} did not answer as expected within {seconds:g} s")
                time.sleep(0.001)
            return time.monotonic()

        return self.inside(who, knock)


@contextmanager
def network() -> Iterator[Network]:
    """The namespaces, removed afterwards, with the listener."""
    made = Network(secrets.token_hex(3))
    with ExitStack() as stack:
        stack.callback(made.closed.set)  # who still knocks gives up
        for who in ("node", *_GATEWAYS):
            stack.callback(namespaces.remove, made.name(who))
            namespaces.ensure(made.name(who))
            made.run("ip", "link", "set", "lo", "up", who=who)
        made.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for who in _GATEWAYS:
            _link(made, who)
        for part in _ANSWERED:
            made.run("ip", "route", "add", "local", part, "dev", "lo", who="pods")
            made.run("ip", "route", "add", part, "via", _ADDRESSES["pods"], "dev", "to-pods", "onlink")
        stack.enter_context(_listening(made))
        yield made


def _link(made: Network, who: str) -> None:
    gateway, address = _GATEWAYS[who], _ADDRESSES[who]
    peer = ("peer", "name", "eth0", "netns", made.name(who))
    made.run("ip", "link", "add", f"to-{who}", "type", "veth", *peer)
    made.run("ip", "address", "add", f"{gateway}/32", "dev", f"to-{who}")
    made.run("ip", "link", "set", f"to-{who}", "up")
    made.run("ip", "route", "add", f"{address}/32", "dev", f"to-{who}", "src", gateway)
    made.run("ip", "address", "add", f"{address}/32", "dev", "eth0", who=who)
    made.run("ip", "link", "set", "eth0", "up", who=who)
    made.run("ip", "route", "add", "default", "via", gateway, "dev", "eth0", "onlink", who=who)


@contextmanager
def _listening(made: Network) -> Iterator[None]:
    """In a process of its own, so that it does not share the interpreter with the clock."""
    sock = made.inside("pods", lambda: socket.create_server(("0.0.0.0", ENDPOINT_PORT), backlog=4096))
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(sock,), daemon=True)
    process.start()
    sock.close()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _answer(sock: socket.socket) -> None:
    while True:
        connection, _ = sock.accept()
        with connection:
            try:
                connection.sendall(connection.getsockname()[0].encode())
            except ConnectionError:
                continue  # who only measures how long a connection takes is gone by now


def _ask(address: str, port: int) -> str:
    """Who answers; nobody: an empty text."""
    try:
        with socket.create_connection((address, port), timeout=KNOCK_TIMEOUT) as sock:
            return sock.recv(100).decode()
    except OSError:
        return ""
