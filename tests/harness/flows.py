"""Real translated connections in one network namespace, for tests of what conntrack says of them; no podwire in it.

Everything is on ``lo``: a client asks a virtual address, nftables (a table of the test's own) sends it to an endpoint,
which answers. Two endpoints per family, so that counts can differ.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from agent.shell import run
from netns import namespaces

T = TypeVar("T")
NODE_IPS = {4: "192.0.2.2", 6: "2001:db8::2"}
ENDPOINTS = {4: ("10.244.0.1", "10.244.0.2"), 6: ("fd00:244::1", "fd00:244::2")}
VIPS = {4: "10.96.0.10", 6: "fd00:96::a"}
PORT, ENDPOINT_PORT = 80, 8080
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True)
class Flows:
    """Makes connections in the namespace ``name``."""

    name: str

    def inside(self, action: Callable[[], T]) -> T:
        return namespaces.inside(self.name, action)

    def nft(self, text: str) -> str:
        return self.inside(lambda: run(("nft", "-f", "-"), stdin=text.encode())).decode()

    def translate(self, *rules: str) -> None:
        """These rules, and no others, in a chain at the output hook of a table ``inet podwire-test``."""
        lines = "\n".join(rules)
        chain = f"chain out {{ type nat hook output priority -100; {lines}\n}}"
        self.nft(f"table inet podwire-test\ndelete table inet podwire-test\ntable inet podwire-test {{\n{chain}\n}}")

    def send_to(self, endpoint: str, *, to: str, port: int = PORT) -> None:
        """Connections to ``to`` go to this endpoint from now on."""
        v6 = ":" in to
        family, target = ("ip6", f"[{endpoint}]") if v6 else ("ip", endpoint)
        match = f"{family} daddr {to} meta l4proto {{ tcp, udp }} th dport {port}"
        self.translate(f"{match} dnat {family} to {target}:{ENDPOINT_PORT}")

    def open_socket(self, version: int, kind: socket.SocketKind) -> socket.socket:
        made = self.inside(lambda: socket.socket(FAMILIES[version], kind))
        made.settimeout(10)
        return made

    @contextmanager
    def tcp(self, endpoint: str, to: str, port: int = PORT) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection: the client's and the endpoint's."""
        version = 6 if ":" in to else 4
        with (
            self.open_socket(version, socket.SOCK_STREAM) as listener,
            self.open_socket(version, socket.SOCK_STREAM) as client,
        ):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((endpoint, ENDPOINT_PORT))
            listener.listen()
            client.connect((to, port))
            server, _ = listener.accept()
            with server:
                yield client, server

    @contextmanager
    def udp(self, endpoint: str, to: str, port: int = PORT) -> Iterator[Callable[[int, int], None]]:
        """``exchange(sent, answered)``: one packet there, one back, with so many bytes of payload."""
        version = 6 if ":" in to else 4
        with (
            self.open_socket(version, socket.SOCK_DGRAM) as server,
            self.open_socket(version, socket.SOCK_DGRAM) as client,
        ):
            server.bind((endpoint, ENDPOINT_PORT))
            client.connect((to, port))

            def exchange(sent: int, answered: int) -> None:
                client.send(bytes(sent))
                _, peer = server.recvfrom(65536)
                server.sendto(bytes(answered), peer)
                client.recv(65536)

            yield exchange


def prepare_flows(name: str) -> Flows:
    """Addresses and routes in the namespace, which must exist and be empty."""
    flows = Flows(name)

    def prepare() -> None:
        run(("ip", "link", "set", "lo", "up"))
        for version in FAMILIES:
            flag = ("nodad",) if version == 6 else ()
            length = 128 if version == 6 else 32
            for address in (NODE_IPS[version], *ENDPOINTS[version]):
                run(("ip", f"-{version}", "address", "add", f"{address}/{length}", "dev", "lo", *flag))
            source = ("src", NODE_IPS[version])
            run(("ip", f"-{version}", "route", "add", f"{VIPS[version]}/{length}", "dev", "lo", *source))

    flows.inside(prepare)
    return flows
