"""How much a DNS query costs: queries per second, and microseconds of the server's CPU time (user and system) for each.

The server runs in a process of its own with 1,000 Services; one client on loopback keeps a window of queries on their
way. Queries per second are bounded by that client as well; the CPU time is the server's alone. dnsmasq, where it is
installed, answers the same A and PTR queries beside it.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from prometheus_client import CollectorRegistry

from benchmarks.tables import print_table
from dnsserver.metrics import Metrics
from dnsserver.names import parse_name, render_name, reverse_name
from dnsserver.records import Index, Port, Service, Type
from dnsserver.respond import Responder
from dnsserver.server import bind, serve
from dnsserver.upstream import Forwarder, Routes
from dnsserver.wire import encode_query
from dnsserver.zone import Question, Settings, Zone

NAMES = 1_000
QUERIES = 20_000  # of each kind, at most
SECONDS = 4.0  # for each kind, at most
WINDOW = 32
DOMAIN = parse_name("cluster.local")
FIRST = int(IPv4Address("10.96.1.0"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for start in (_podwire, _dnsmasq) for row in _measure(start, Path(folder))]
    header = ("server", "queries", "answered", "per second", "CPU us per query")
    print_table(f"DNS on loopback: {NAMES} Services, {WINDOW} queries on their way", header, rows)


Kind = tuple[str, Sequence[bytes], bool]  # name, queries, over TCP


def _measure(start: object, folder: Path) -> Iterator[tuple[str, ...]]:
    assert callable(start)
    with start(folder) as running:
        if running is None:
            return
        name, pid, port, kinds = running
        for kind, queries, tcp in kinds:
            before, began = _cpu(pid), time.monotonic()
            answered = (_over_tcp if tcp else _over_udp)(port, queries)
            seconds = time.monotonic() - began
            cost = (_cpu(pid) - before) / max(1, answered) * 1e6
            yield name, kind, str(answered), f"{answered / seconds:,.0f}", f"{cost:.1f}"


# The servers


@contextmanager
def _podwire(_: Path) -> Iterator[tuple[str, int, int, list[Kind]]]:
    command = (sys.executable, "-m", "benchmarks.dns_queries", "serve")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield "podwire", process.pid, port, _kinds()
        finally:
            process.terminate()


@contextmanager
def _dnsmasq(folder: Path) -> Iterator[tuple[str, int, int, list[Kind]] | None]:
    program = shutil.which("dnsmasq")
    if program is None:
        yield None
        return
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{_address(n)} s{n}.shop.svc.cluster.local\n" for n in range(NAMES)))
    (listener,) = bind(("127.0.0.1",), 0)
    listener.close()
    options = ("--keep-in-foreground", "--no-resolv", "--no-hosts", "--no-daemon", "--conf-file=/dev/null")
    listen = ("--listen-address=127.0.0.1", "--bind-interfaces", f"--port={listener.port}")
    command = (program, *options, *listen, f"--addn-hosts={hosts}", "--local=/cluster.local/")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_answers(listener.port)
            yield "dnsmasq", process.pid, listener.port, [kind for kind in _kinds() if kind[0] in ("A", "PTR")]
        finally:
            process.terminate()


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 5
    while _over_udp(port, _queries(["s0.shop.svc.cluster.local"], Type.A)[:1]) == 0:
        if time.monotonic() > deadline:
            sys.exit("bench: dnsmasq does not answer")


def _serve() -> None:
    """The child process: a zone, served on a free port, which it prints."""
    index = Index(DOMAIN, ttl=5)
    for n in range(NAMES):
        service = Service("shop", f"s{n}", (_address(n),), (Port("http", "TCP", 80),))
        index.put_service("shop", service.name, service)
    zone = Zone(Settings(DOMAIN, networks=(ip_network("10.96.0.0/12"),)), index)
    zone.synced = True
    listeners = bind(("127.0.0.1",), 0)
    print(listeners[0].port, flush=True)
    metrics = Metrics(CollectorRegistry())
    asyncio.run(serve(listeners, Responder(zone), Forwarder(Routes()), metrics=metrics))


# The client


def _address(n: int) -> IPv4Address:
    return IPv4Address(FIRST + n)


def _kinds() -> list[Kind]:
    known = [f"s{n}.shop.svc.cluster.local" for n in range(NAMES)]
    search = [f"www.example.com.{name}" for name in ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")]
    fresh = [f"{random.getrandbits(60):x}.shop.svc.cluster.local" for _ in range(QUERIES)]
    pointers = [render_name(reverse_name(_address(n))) for n in range(NAMES)]
    return [
        ("A", _queries(known, Type.A), False),
        ("A with EDNS", _queries(known, Type.A, edns=True), False),
        ("SRV", _queries([f"_http._tcp.{name}" for name in known], Type.SRV), False),
        ("PTR", _queries(pointers, Type.PTR), False),
        ("AAAA (no data)", _queries(known, Type.AAAA), False),
        ("NXDOMAIN of the search path", _queries(search, Type.A), False),
        ("NXDOMAIN, never asked before", _queries(fresh, Type.A), False),
        ("A over TCP", _queries(known, Type.A), True),
    ]


def _queries(names: Sequence[str], qtype: Type, *, edns: bool = False) -> list[bytes]:
    made = [encode_query(7, Question(parse_name(name), qtype), edns=edns) for name in names]
    return [made[n % len(made)] for n in range(QUERIES)]


def _over_udp(port: int, queries: Sequence[bytes]) -> int:
    answered, deadline = 0, time.monotonic() + SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect(("127.0.0.1", port))
        for start in range(0, len(queries), WINDOW):
            window = queries[start : start + WINDOW]
            try:
                for query in window:
                    client.send(query)
                for _ in window:
                    client.recv(4096)
                    answered += 1
            except (TimeoutError, ConnectionRefusedError):
                pass  # what is lost is not answered, and not counted
            if time.monotonic() > deadline:
                break
    return answered


def _over_tcp(port: int, queries: Sequence[bytes]) -> int:
    answered, deadline = 0, time.monotonic() + SECONDS
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client, client.makefile("rb") as answers:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(queries), WINDOW):
            window = queries[start : start + WINDOW]
            client.sendall(b"".join(struct.pack("!H", len(query)) + query for query in window))
            for _ in window:
                answers.read(struct.unpack("!H", answers.read(2))[0])
                answered += 1
            if time.monotonic() > deadline:
                break
    return answered


def _cpu(pid: int) -> float:
    """Seconds of user and system time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    _serve() if sys.argv[1:] == ["serve"] else main()
