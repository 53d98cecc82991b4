"""Two nodes with pods, and somebody outside, in namespaces: real routes, real packets, no podwire in it.

```
             outside   192.0.2.1      fd00:192::1     holds 203.0.113.200 / fd00:203::200: a load balancer that proxies
                |
                |      192.0.2.2      fd00:192::2
              node     THE NODE UNDER TEST, only here are rules; holds 203.0.113.99 / fd00:203::99 on its lo
10.244.0.1    | | |    198.51.100.1   fd00:198::1
fd00:244::1   | | |
         .----' | `------- other      198.51.100.2    fd00:198::2     a node without any rules
         |      |            |
         a      b            c
a 10.244.0.11  fd00:244::11     b 10.244.0.12  fd00:244::12     c 10.244.1.11  fd00:244:1::11
```
Each pod has a link of its own and is routed, so every packet to or from a pod of this node passes the node's netfilter.
``other`` reaches everybody through the node: whatever source address an endpoint sees there, its reply comes back here
to be translated, so that a missing masquerade shows in *what the endpoint saw*, not in a connection that hangs.

In every pod a server on port 8080 (TCP and UDP) says who it is and from which address it was asked; so does one
outside, on port 80.
"""

from __future__ import annotations

import errno
import secrets
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from agent.shell import run
from netns import namespaces
from rules.snapshot import Family
from tests.leaks import assert_no_leaks

T = TypeVar("T")
V4, V6 = Family.IPV4, Family.IPV6

PORT = 8080
PODS = {
    "a": {V4: "10.244.0.11", V6: "fd00:244::11"},
    "b": {V4: "10.244.0.12", V6: "fd00:244::12"},
    "c": {V4: "10.244.1.11", V6: "fd00:244:1::11"},
}
POD_NETWORK = ("10.244.0.0/16", "fd00:244::/32")
OUTSIDE = {V4: "192.0.2.1", V6: "fd00:192::1"}
UPLINK = {V4: "192.0.2.2", V6: "fd00:192::2"}
CROSSLINK = {V4: "198.51.100.1", V6: "fd00:198::1"}  # the node's address towards the other node
OTHER = {V4: "198.51.100.2", V6: "fd00:198::2"}
GATEWAY = {V4: "10.244.0.1", V6: "fd00:244::1"}
OTHER_GATEWAY = {V4: "10.244.1.1", V6: "fd00:244:1::1"}
HELD = {V4: "203.0.113.99", V6: "fd00:203::99"}  # a load balancer address that the node itself has
BALANCER = {V4: "203.0.113.200", V6: "fd00:203::200"}  # one where something outside answers
LOCALHOST = {V4: "127.0.0.1", V6: "::1"}

_NODE_HAS = {family: {a[family] for a in (UPLINK, CROSSLINK, GATEWAY, HELD, LOCALHOST)} for family in Family}
_OWN = {**PODS, "outside": OUTSIDE}
_ROUTED = ("10.96.0.0/16", "203.0.113.0/24", "198.18.0.0/16", "10.244.0.0/16", "198.51.100.0/24")
_ROUTED6 = ("fd00:96::/32", "fd00:203::/32", "fd00:18::/32", "fd00:244::/32", "fd00:198::/32")
_OTHER_PODS = {V4: "10.244.1.0/24", V6: "fd00:244:1::/48"}
_BITS = {V4: 32, V6: 128}
_SYSCTLS = (
    *("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
    *("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"),  # each refused UDP client is told, however many ask
    "net.ipv6.conf.default.dad_transmits=0",  # link-local addresses work at once, too
)


@dataclass(frozen=True)
class TwoNodes:
    """``inside(who, action)`` runs something in the namespace of ``node``, ``other``, ``outside`` or a pod."""

    tag: str

    def name(self, who: str) -> str:
        return f"pwt-{self.tag}-{who}"

    def inside(self, who: str, action: Callable[[], T]) -> T:
        return namespaces.inside(self.name(who), action)

    def run(self, *argv: str, who: str = "node", stdin: str = "") -> str:
        return self.inside(who, lambda: run(argv, stdin=stdin.encode()).decode())


def class_of(source: str, *, client: str, family: Family) -> str:
    """What an endpoint saw: the client's ``own`` address, one of the ``node``, or else the address itself."""
    if source in _NODE_HAS[family]:
        return "node"
    return "own" if client in _OWN and source == _OWN[client][family] else source


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """The namespaces and the servers; nothing of them is left at the end."""
    made = TwoNodes(secrets.token_hex(3))
    with assert_no_leaks(tag=made.tag), ExitStack() as stack:
        for who in ("node", "other", "outside", *PODS):
            stack.callback(namespaces.remove, made.name(who))
            namespaces.ensure(made.name(who))
            made.run("ip", "link", "set", "lo", "up", who=who)
            made.run("sysctl", "-qw", *_SYSCTLS, who=who)
        made.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")  # what NodePorts on 127.0.0.1 need
        _wire(made)
        stack.enter_context(answering(made, [*((pod, PORT) for pod in PODS), ("outside", 80)]))
        yield made


def _wire(made: TwoNodes) -> None:
    _link(made, ("node", UPLINK), ("outside", OUTSIDE))
    _link(made, ("node", CROSSLINK), ("other", OTHER))
    for node, gateway, pods in (("node", GATEWAY, "ab"), ("other", OTHER_GATEWAY, "c")):
        for pod in pods:
            _link(made, (node, gateway), (pod, PODS[pod]))
            _batch(made, pod, [f"route add default via {gateway[f]} dev to-{node} onlink" for f in Family])
    _batch(made, "node", [f"route add default via {OUTSIDE[f]}" for f in Family])
    _batch(made, "other", [f"route add default via {CROSSLINK[f]}" for f in Family])
    _batch(made, "node", [f"route add {_OTHER_PODS[f]} via {OTHER[f]}" for f in Family])
    routed = ((V4, _ROUTED), (V6, _ROUTED6))
    _batch(made, "outside", [f"route add {net} via {UPLINK[f]}" for f, nets in routed for net in nets])
    _batch(made, "node", [f"address add {HELD[f]}/{_BITS[f]} dev lo" for f in Family])
    _batch(made, "outside", [f"address add {BALANCER[f]}/{_BITS[f]} dev lo" for f in Family])


def _link(made: TwoNodes, one: tuple[str, dict[Family, str]], other: tuple[str, dict[Family, str]]) -> None:
    (here, _), (there, _) = one, other
    made.run(
        *("ip", "link", "add", f"to-{there}", "type", "veth", "peer", "name", f"to-{here}", "netns", made.name(there)),
        who=here,
    )
    for (who, own), (peer, its) in ((one, other), (other, one)):
        lines = [f"address add {own[f]}/{_BITS[f]} dev to-{peer}{' nodad' if f is V6 else ''}" for f in Family]
        lines.append(f"link set to-{peer} up")
        lines += [f"route add {its[f]}/{_BITS[f]} dev to-{peer} src {own[f]}" for f in Family]
        _batch(made, who, lines)


def _batch(made: TwoNodes, who: str, lines: list[str]) -> None:
    made.run("ip", "-batch", "-", who=who, stdin="\n".join(lines) + "\n")


# The servers: one thread for all of them.


@contextmanager
def answering(made: TwoNodes, servers: Iterable[tuple[str, int]]) -> Iterator[None]:
    """A server on each (who, port), on all addresses, until the end of the block."""
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        for who, port in servers:
            for make, answer in ((_tcp, _answer_tcp), (_udp, _answer_udp)):
                sock = stack.enter_context(made.inside(who, partial(make, port)))
                ready.register(sock, selectors.EVENT_READ, (answer, who))
        wake, sleeper = socket.socketpair()
        stack.enter_context(wake)
        ready.register(stack.enter_context(sleeper), selectors.EVENT_READ)
        thread = threading.Thread(target=_serve, args=(ready,), name="answering")
        thread.start()
        try:
            yield
        finally:
            wake.send(b".")
            thread.join()


def _serve(ready: selectors.BaseSelector) -> None:
    while True:
        for key, _ in ready.select():
            if key.data is None:
                return
            answer, who = key.data
            try:
                answer(key.fileobj, who)
            except (BlockingIOError, ConnectionError):  # the client has gone again
                continue


def _tcp(port: int) -> socket.socket:
    sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    sock.setblocking(False)
    return sock


def _udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.setblocking(False)
    return sock


def _answer_tcp(sock: socket.socket, who: str) -> None:
    connection, client = sock.accept()
    with connection:
        connection.sendall(_answer(who, client[0]))


def _answer_udp(sock: socket.socket, who: str) -> None:
    _, client = sock.recvfrom(100)
    sock.sendto(_answer(who, client[0]), client)


def _answer(who: str, client: str) -> bytes:
    return f"{who} {client.removeprefix('::ffff:')}".encode()


# The clients: one thread per namespace, which asks all its questions.

PATIENCE = 5.0  # seconds for what should come
SILENCE = 0.5  # seconds in which nothing may come: less than the kernel takes to send a SYN again
_BY = {("a",): "local", ("c",): "remote", ("a", "c"): "any", ("outside",): "beyond"}


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks what, and what should come of it, in the words of ``ask_all``."""

    who: str
    family: Family
    address: str
    port: int
    expected: str
    protocol: str = "TCP"
    title: str = ""

    def __str__(self) -> str:
        place = f"[{self.address}]" if self.family is V6 else self.address
        return f"{self.title or self.who} -> {place}:{self.port} {self.protocol}"


def ask_all(made: TwoNodes, questions: Iterable[Question]) -> dict[Question, str]:
    """What came of each question.

    ``local own``: answered by this node's endpoint (``local`` a, ``remote`` c, ``any`` both, ``beyond`` the load
    balancer outside), which saw the client's ``own`` address (or one of the ``node``). ``refused``; ``dropped``.
    """
    whose: dict[str, list[Question]] = {}
    for question in questions:
        whose.setdefault(question.who, []).append(question)
    with ThreadPoolExecutor(len(whose) or 1) as pool:
        jobs = [pool.submit(made.inside, who, partial(_ask_in_turn, its)) for who, its in whose.items()]
        return {question: answer for job in jobs for question, answer in job.result().items()}


def _ask_in_turn(questions: list[Question]) -> dict[Question, str]:
    """The ones that nobody should answer wait for that together, while the others are asked."""
    silent = [question for question in questions if question.expected == "dropped"]
    waiting = [(question, _knock(question)) for question in silent]
    began = time.monotonic()
    found = {question: _ask(question) for question in questions if question.expected != "dropped"}
    time.sleep(max(0.0, SILENCE - (time.monotonic() - began)) if silent else 0.0)
    return found | {question: _silence(question, sock) for question, sock in waiting}


def _ask(question: Question) -> str:
    """Several times, so that a balanced Service shows all its endpoints, and one that is not shows no other."""
    tries = 64 if question.expected.startswith("any ") else 8
    answers: set[tuple[str, str]] = set()
    for _ in range(tries if question.expected != "refused" else 1):
        try:
            answers.add(_ask_once(question))
        except OSError as error:
            return _failure(error)
        if tries == 64 and len({by for by, _ in answers}) == 2:
            break
    return _describe(question, answers)


def _ask_once(question: Question) -> tuple[str, str]:
    with _socket(question) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((question.address, question.port))
        if question.protocol == "UDP":
            with suppress(PermissionError):  # refused on the way out of this very namespace; the ICMP error comes, too
                sock.send(b"?")
        by, source = sock.recv(100).decode().split()
        return by, source


def _knock(question: Question) -> socket.socket:
    sock = _socket(question)
    sock.setblocking(False)
    with suppress(BlockingIOError, PermissionError):  # under way; or dropped on the way out of this very namespace
        sock.connect((question.address, question.port))
        if question.protocol == "UDP":
            sock.send(b"?")
    return sock


def _silence(question: Question, sock: socket.socket) -> str:
    with sock:
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if question.protocol == "TCP" else 0))
        if not poll.poll(0):
            return "dropped"
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return _failure(OSError(error, "")) if error else _ask(replace(question, expected="refused"))


def _socket(question: Question) -> socket.socket:
    family = socket.AF_INET if question.family is V4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM if question.protocol == "TCP" else socket.SOCK_DGRAM)
    if question.protocol == "TCP":  # leave by a reset: thousands of connections in TIME_WAIT would crowd conntrack
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def _failure(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "dropped"
    return "refused" if error.errno == errno.ECONNREFUSED else errno.errorcode.get(error.errno or 0, str(error))


def _describe(question: Question, answers: set[tuple[str, str]]) -> str:
    who = tuple(sorted({by for by, _ in answers}))
    saw = {class_of(source, client=question.who, family=question.family) for _, source in answers}
    return f"{_BY.get(who, '+'.join(who))} {'/'.join(sorted(saw))}"
