"""The server on real sockets: asked by dig, by a resolver's odd habits, and by nobody's good intentions.

127.0.0.1 and ::1, a free port each, one zone; nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import dnslib
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from dnsserver.metrics import Metrics
from dnsserver.names import parse_name
from dnsserver.records import Endpoint, EndpointSlice, Index, Port, Service
from dnsserver.respond import Responder
from dnsserver.server import BindError, Limits, Listener, bind, serve
from dnsserver.upstream import Forwarder, Routes
from dnsserver.wire import encode_query
from dnsserver.zone import Question, Settings, Zone

DOMAIN = parse_name("cluster.local")
WEB = "web.shop.svc.cluster.local"
PATIENCE = 20.0  # seconds a test waits for what must come


class Running:
    """A served zone. ``limits`` of the tests' own making."""

    def __init__(self, listeners: tuple[Listener, ...], registry: CollectorRegistry) -> None:
        self.v4, self.v6 = listeners
        self.registry = registry

    async def dig(self, *words: str, address: str = "127.0.0.1") -> str:
        port = self.v4.port if address == "127.0.0.1" else self.v6.port
        command = ("dig", f"@{address}", "-p", str(port), "+tries=1", "+time=15", *words)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        return out.decode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.v4.port)


def make_zone() -> Zone:
    index = Index(DOMAIN, ttl=5)
    index.put_namespace("shop", exists=True)
    web = Service("shop", "web", (ip_address("10.96.0.7"), ip_address("fd00::7")), (Port("http", "TCP", 80),))
    index.put_service("shop", "web", web)
    index.put_service("shop", "big", Service("shop", "big", headless=True))
    members = tuple(Endpoint((ip_address(f"10.244.{n >> 8}.{n & 255}"),)) for n in range(300))
    index.put_slice("shop", "big-x", EndpointSlice("shop", "big", (Port("http", "TCP", 80),), members))
    zone = Zone(Settings(DOMAIN, nameservers=(ip_address("127.0.0.1"),)), index)
    zone.synced = True
    return zone


LIMITS = Limits(connections=6, per_client=5, pipelined=4, idle=1.0)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    listeners = bind(("127.0.0.1", "::1"), 0)
    begun = asyncio.Event()
    metrics = Metrics(registry)
    responder = Responder(make_zone())
    work = serve(listeners, responder, Forwarder(Routes()), metrics=metrics, limits=LIMITS, listening=begun.set)
    task = asyncio.create_task(work)
    await begun.wait()
    yield Running(listeners, registry)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(listener.udp.fileno() == listener.tcp.fileno() == -1 for listener in listeners)


def message(name: str = WEB, qtype: int = 1, ident: int = 7) -> bytes:
    return encode_query(ident, Question(parse_name(name), qtype))


def framed(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


async def next_answer(reader: asyncio.StreamReader) -> Any:
    async with asyncio.timeout(PATIENCE):
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return dnslib.DNSRecord.parse(await reader.readexactly(length))


async def over_udp(server: Running, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", server.v4.port))
        await loop.sock_sendall(client, data)
        return await asyncio.wait_for(loop.sock_recv(client, 65535), PATIENCE)


# dig


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_dig_over_both_families_and_transports(server: Running, address: str, transport: str) -> None:
    out = await server.dig(transport, WEB, "A", WEB, "AAAA", "+noall", "+answer", address=address)
    said = [line.split() for line in out.splitlines() if line and not line.startswith(";")]
    assert said == [
        [f"{WEB}.", "5", "IN", "A", "10.96.0.7"],
        [f"{WEB}.", "5", "IN", "AAAA", "fd00::7"],
    ]


async def test_dig_sees_no_warning_and_the_right_flags(server: Running) -> None:
    out = await server.dig(WEB)
    assert "status: NOERROR" in out
    assert "flags: qr aa rd ra" in out
    assert "EDNS: version: 0, flags:; udp: 1232" in out
    assert "WARNING: recursion" not in out
    assert "malformed" not in out


async def test_dig_shows_denials_with_the_soa(server: Running) -> None:
    out = await server.dig("nobody.shop.svc.cluster.local")
    assert "status: NXDOMAIN" in out
    assert "ANSWER: 0, AUTHORITY: 1" in out
    assert "SOA\tns.dns.cluster.local. hostmaster.cluster.local." in out
    out = await server.dig(WEB, "MX")
    assert "status: NOERROR" in out
    assert "ANSWER: 0, AUTHORITY: 1" in out


async def test_dig_falls_back_to_tcp_when_the_answer_is_cut(server: Running) -> None:
    cut = await server.dig("+ignore", "big.shop.svc.cluster.local")
    assert "flags: qr aa tc rd ra" in cut
    assert "QUERY: 1" in cut
    whole = await server.dig("big.shop.svc.cluster.local")
    assert "flags: qr aa rd ra; QUERY: 1, ANSWER: 300" in whole
    assert "(TCP)" in whole


async def test_dig_without_edns(server: Running) -> None:
    out = await server.dig("+noedns", WEB)
    assert "OPT PSEUDOSECTION" not in out
    assert "ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 0" in out


async def test_dig_with_cookies_subnets_and_unknown_options(server: Running) -> None:
    out = await server.dig("+cookie", "+subnet=192.0.2.0/24", "+ednsopt=65001:abcd", "+nsid", WEB)
    assert "status: NOERROR" in out
    assert "10.96.0.7" in out


async def test_dig_with_a_future_edns_version(server: Running) -> None:
    out = await server.dig("+edns=1", "+noednsnegotiation", WEB)
    assert "status: BADVERS" in out
    out = await server.dig("+edns=1", WEB)  # dig learns the version from the answer and asks again
    assert "status: NOERROR" in out


async def test_dig_with_other_opcodes_and_classes(server: Running) -> None:
    assert "status: NOTIMP" in await server.dig("+opcode=status", WEB)
    assert "status: REFUSED" in await server.dig("-c", "CH", WEB)


async def test_dig_keeps_its_letter_case(server: Running) -> None:
    assert "wEb.sHoP.SVC.cluster.LOCAL. 5\tIN\tA" in await server.dig("wEb.sHoP.SVC.cluster.LOCAL")


async def test_dig_srv_brings_addresses(server: Running) -> None:
    out = await server.dig(f"_http._tcp.{WEB}", "SRV", "+noall", "+answer", "+additional")
    assert f"SRV\t0 100 80 {WEB}." in out
    assert "A\t10.96.0.7" in out
    assert "AAAA\tfd00::7" in out


async def test_without_upstreams_the_reason_is_told(server: Running) -> None:
    out = await server.dig("example.com")
    assert "status: SERVFAIL" in out
    assert "EDE: 22 (No Reachable Authority)" in out
    assert "no upstream is configured" in out


# Bytes


async def test_silence_for_what_deserves_none_and_an_answer_for_what_follows(server: Running) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", server.v4.port))
        response = bytearray(message(ident=1))
        response[2] |= 0x80
        for data in (b"", b"\0" * 11, bytes(response), message(ident=2)):
            await loop.sock_sendall(client, data)
        answer = await asyncio.wait_for(loop.sock_recv(client, 65535), PATIENCE)
    assert answer[:2] == b"\0\2"


@pytest.mark.parametrize(
    "data",
    [
        message()[:20],
        message() + b"x",
        message()[:12] + b"\xc0\x0c\0\1\0\1",
        message()[:12] + b"\xc0\x0c" * 610,
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 65535) + message()[12:] + b"\xc0\x0c" * 5000,
    ],
)
async def test_malformed_requests_get_formerr_and_harm_nobody(server: Running, data: bytes) -> None:
    answer = await over_udp(server, data)
    assert answer[:2] == b"\0\7"
    assert answer[3] & 0xF == 1
    assert len(answer) <= 512
    assert (await over_udp(server, message(ident=9)))[:2] == b"\0\x09"


# TCP


async def test_tcp_takes_any_pieces(server: Running) -> None:
    reader, writer = await server.connect()
    for octet in framed(message()):
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0)
    assert str((await next_answer(reader)).rr[0].rdata) == "10.96.0.7"
    writer.close()
    await writer.wait_closed()


async def test_tcp_takes_many_queries_at_once(server: Running) -> None:
    reader, writer = await server.connect()
    writer.write(b"".join(framed(message(ident=n)) for n in range(40)))
    answers = {(await next_answer(reader)).header.id for _ in range(40)}
    assert answers == set(range(40))
    writer.close()
    await writer.wait_closed()


async def test_tcp_answers_leave_at_once() -> None:
    """asyncio turns Nagle's algorithm off for sockets that name their protocol, and for no others."""
    (listener,) = bind(("127.0.0.1",), 0)
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.set_result(option)
        writer.close()

    served = await asyncio.start_server(connected, sock=listener.tcp)
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    assert await asyncio.wait_for(accepted, PATIENCE) != 0
    writer.close()
    await writer.wait_closed()
    served.close()
    listener.close()


async def test_tcp_answers_a_client_that_has_said_all(server: Running) -> None:
    reader, writer = await server.connect()
    writer.write(framed(message()) + framed(b"\0" * 11) + framed(message(ident=8)))
    writer.write_eof()
    data = await asyncio.wait_for(reader.read(), PATIENCE)
    first = struct.unpack("!H", data[:2])[0]
    assert {data[2:4], data[first + 4 : first + 6]} == {b"\0\7", b"\0\x08"}
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("piece", [b"", b"\0", b"\0\x20half of it"])
async def test_tcp_cuts_off_who_idles(server: Running, piece: bytes) -> None:
    reader, writer = await server.connect()
    writer.write(piece)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    await writer.wait_closed()


async def test_tcp_connections_are_bounded(server: Running) -> None:
    admitted, refused = [], 0
    for _ in range(8):
        reader, writer = await server.connect()
        try:
            writer.write(framed(message()))
            await next_answer(reader)
            admitted.append(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            refused += 1
            writer.close()
    assert (len(admitted), refused) == (LIMITS.per_client, 3)
    for writer in admitted:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(PATIENCE):  # and there is room again
        while True:
            reader, writer = await server.connect()
            try:
                writer.write(framed(message()))
                await next_answer(reader)
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0.02)
            finally:
                writer.close()


async def test_tcp_drops_who_does_not_read(server: Running) -> None:
    """Answers of 5 KB each, never fetched: the connection is given up, memory is not."""
    _, writer = await server.connect()
    writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def insist() -> None:
        while True:
            writer.write(framed(message("big.shop.svc.cluster.local")) * 100)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(insist(), PATIENCE)
    writer.transport.abort()


# The rest


async def test_requests_are_counted(server: Running) -> None:
    await over_udp(server, message())
    await server.dig("+tcp", "nobody.shop.svc.cluster.local")
    value = server.registry.get_sample_value
    common = {"server": "dns://:53", "zone": "cluster.local.", "view": ""}
    assert value("coredns_dns_requests_total", {**common, "proto": "udp", "family": "1", "type": "A"}) == 1
    assert value("coredns_dns_responses_total", {**common, "rcode": "NXDOMAIN", "plugin": ""}) == 1
    assert value("coredns_dns_request_duration_seconds_count", common) == 2


def test_an_address_in_use_is_explained() -> None:
    (first,) = bind(("127.0.0.1",), 0)
    try:
        with pytest.raises(BindError, match=rf"127\.0\.0\.1 port {first.port}/udp.*\(pid \d+\) has it"):
            bind(("127.0.0.1",), first.port)
        first.udp.close()
        with pytest.raises(BindError, match=rf"127\.0\.0\.1 port {first.port}/tcp.*\(pid \d+\) has it"):
            bind(("127.0.0.1",), first.port)
    finally:
        first.close()


def test_an_address_that_is_not_here_is_explained_and_nothing_stays_bound() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(BindError, match=r"192\.0\.2\.1 .*no interface"):
        bind(("127.0.0.1", "192.0.2.1"), port)
    (listener,) = bind(("127.0.0.1",), port)
    listener.close()
