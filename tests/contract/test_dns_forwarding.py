"""Forwarding: against upstreams of our own on loopback, honest, slow, lying and dead."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import dnslib
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from dnsserver import upstream
from dnsserver.cache import Ask
from dnsserver.metrics import Metrics
from dnsserver.names import parse_name
from dnsserver.records import Index, Service, Type
from dnsserver.respond import Responder
from dnsserver.server import bind, serve
from dnsserver.upstream import Forwarder, Routes, Server, UpstreamError
from dnsserver.zone import Question, Rcode, Settings, Zone

ASK = Ask(Question(parse_name("example.com"), Type.A))
PATIENCE = 20.0

Behaviour = Callable[["Upstream", bytes, Callable[[bytes], None]], Awaitable[None]]


class Upstream(asyncio.DatagramProtocol):
    """A name server of the tests' own. ``behaviour`` gets each UDP query and a way to answer it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.udp: list[bytes] = []
        self.tcp: list[bytes] = []
        self.server = Server("127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        (listener,) = bind(("127.0.0.1",), 0)
        self.server = Server("127.0.0.1", listener.port)
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=listener.udp)
        self.listening = await asyncio.start_server(self._connected, sock=listener.tcp)

    async def stop(self) -> None:
        self.transport.close()
        self.listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.udp.append(data)
        task = asyncio.ensure_future(self.behaviour(self, data, lambda answer: self.transport.sendto(answer, addr)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(length)
        self.tcp.append(data)
        answer = respond(data, *[f"10.1.{n}.1" for n in range(200)])
        writer.write(struct.pack("!H", len(answer)) + answer)
        writer.close()


def respond(data: bytes, *addresses: str, ttl: int = 60, rcode: int = 0, tc: int = 0) -> bytes:
    query = dnslib.DNSRecord.parse(data)
    reply = query.reply(ra=1, aa=0)
    reply.header.rcode, reply.header.tc = rcode, tc
    for address in addresses:
        reply.add_answer(dnslib.RR(query.q.qname, query.q.qtype, ttl=ttl, rdata=dnslib.A(address)))
    return bytes(reply.pack())


def honest(*addresses: str, ttl: int = 60, delay: float = 0.0) -> Behaviour:
    async def behave(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
        await asyncio.sleep(delay)
        answer(respond(data, *addresses, ttl=ttl))

    return behave


def failing(rcode: int) -> Behaviour:
    async def behave(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
        answer(respond(data, rcode=rcode))

    return behave


async def silent(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
    return None


Start = Callable[[Behaviour], Awaitable[Upstream]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    running: list[Upstream] = []

    async def start(behaviour: Behaviour) -> Upstream:
        running.append(Upstream(behaviour))
        await running[-1].start()
        return running[-1]

    yield start
    for one in running:
        await one.stop()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def forwarder(*upstreams: Upstream, clock: Clock | None = None, timeout: float = 0.3, at_once: int = 100) -> Forwarder:
    routes = Routes(tuple(one.server for one in upstreams))
    metrics = Metrics(CollectorRegistry())
    return Forwarder(routes, clock=clock or Clock(), timeout=timeout, at_once=at_once, metrics=metrics)


async def resolve(one: Forwarder, ask: Ask = ASK) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        answer = await one.resolve(ask)
    return [".".join(map(str, record.data)) for record in answer.answers if isinstance(record.data, bytes)]


async def test_an_answer_is_fetched_once_and_kept_until_its_time_is_over(start: Start) -> None:
    clock, up = Clock(), await start(honest("192.0.2.1", ttl=60))
    one = forwarder(up, clock=clock)
    assert await resolve(one) == ["192.0.2.1"]
    clock.now += 59
    assert (await one.resolve(ASK)).answers[0].ttl == 1
    assert len(up.udp) == 1
    clock.now += 2
    assert await resolve(one) == ["192.0.2.1"]
    assert len(up.udp) == 2


async def test_many_clients_make_one_query(start: Start) -> None:
    up = await start(honest("192.0.2.1", delay=0.1))
    one = forwarder(up, timeout=10.0)
    answers = await asyncio.gather(*(resolve(one) for _ in range(50)))
    assert answers == [["192.0.2.1"]] * 50
    assert len(up.udp) == 1


async def test_a_client_that_goes_away_takes_nobody_along(start: Start) -> None:
    up = await start(honest("192.0.2.1", delay=0.1))
    one = forwarder(up, timeout=10.0)
    first, second = asyncio.create_task(resolve(one)), asyncio.create_task(resolve(one))
    await asyncio.sleep(0.02)
    first.cancel()
    assert await second == ["192.0.2.1"]
    assert len(up.udp) == 1


async def test_a_dead_server_is_asked_last_for_a_while(start: Start) -> None:
    clock, dead, alive = Clock(), await start(silent), await start(honest("192.0.2.1", ttl=0))
    one = forwarder(dead, alive, clock=clock)
    assert await resolve(one) == ["192.0.2.1"]
    assert await resolve(one) == ["192.0.2.1"]
    assert (len(dead.udp), len(alive.udp)) == (1, 2)
    clock.now += upstream.REST + 1
    await resolve(one)
    assert len(dead.udp) == 2


async def test_where_nobody_answers_each_name_fails_fast(start: Start) -> None:
    """The first failure takes its full time; then a moment for each server, until their rest is over."""
    clock, first, second = Clock(), await start(silent), await start(silent)
    one = forwarder(first, second, clock=clock, timeout=0.4)

    async def failure(name: str) -> str:
        with pytest.raises(UpstreamError) as caught:
            await one.resolve(Ask(Question(parse_name(name), Type.A)))
        return str(caught.value)

    assert "did not answer in 0.4 s" in await failure("one.example")
    told = await failure("two.example")
    assert told.count(f"did not answer in {upstream.MOMENT:g} s") == 2
    assert "0.4 s" not in told
    clock.now += upstream.REST + 1  # and that moment has not prolonged the rest
    assert "did not answer in 0.4 s" in await failure("three.example")
    assert (len(first.udp), len(second.udp)) == (3, 3)


async def test_a_server_that_is_back_is_noticed_by_the_next_query(start: Start) -> None:
    up = await start(silent)
    one = forwarder(up, timeout=0.05)
    with pytest.raises(UpstreamError):
        await one.resolve(ASK)
    up.behaviour = honest("192.0.2.1")
    for _ in range(100):  # a busy machine may need more than one moment
        with contextlib.suppress(UpstreamError):
            assert await resolve(one) == ["192.0.2.1"]
            break
    else:
        pytest.fail("it was never noticed")


async def test_a_closed_port_is_noticed_at_once(start: Start) -> None:
    gone = await start(silent)
    await gone.stop()
    alive = await start(honest("192.0.2.1"))
    one = forwarder(gone, alive, timeout=PATIENCE)  # the kernel reports it: no time is waited out
    assert await resolve(one) == ["192.0.2.1"]


@pytest.mark.parametrize("rcode", [Rcode.SERVFAIL, Rcode.REFUSED])
async def test_a_server_that_cannot_help_is_passed_over(start: Start, rcode: Rcode) -> None:
    bad, good = await start(failing(rcode)), await start(honest("192.0.2.1"))
    assert await resolve(forwarder(bad, good)) == ["192.0.2.1"]


async def test_if_nobody_can_help_the_first_refusal_is_handed_on(start: Start) -> None:
    first, second = await start(failing(Rcode.REFUSED)), await start(failing(Rcode.SERVFAIL))
    answer = await forwarder(first, second).resolve(ASK)
    assert answer.rcode == Rcode.REFUSED
    assert (len(first.udp), len(second.udp)) == (1, 1)


async def test_a_denial_is_final(start: Start) -> None:
    first, second = await start(failing(Rcode.NXDOMAIN)), await start(honest("192.0.2.1"))
    assert (await forwarder(first, second).resolve(ASK)).rcode == Rcode.NXDOMAIN
    assert second.udp == []


async def test_a_cut_answer_is_fetched_over_tcp(start: Start) -> None:
    async def cut(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
        answer(respond(data, tc=1))

    up = await start(cut)
    assert len(await resolve(forwarder(up, timeout=PATIENCE))) == 200
    assert (len(up.udp), len(up.tcp)) == (1, 1)


async def test_lies_are_waited_past(start: Start) -> None:
    """Wrong ID, wrong question, a query, noise: only the response to what was asked counts."""

    async def liar(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
        other_id = bytes([data[0] ^ 1]) + data[1:]
        other_name = data.replace(b"example", b"exbmple")
        for lie in (respond(other_id, "6.6.6.6"), respond(other_name, "6.6.6.6"), data, b"noise", b"\xc0\x0c" * 500):
            answer(lie)
        answer(respond(data, "192.0.2.1"))

    up = await start(liar)
    assert await resolve(forwarder(up, timeout=PATIENCE)) == ["192.0.2.1"]
    assert len(up.udp) == 1


async def test_a_server_that_knows_no_edns_is_asked_without(start: Start) -> None:
    async def old(_: Upstream, data: bytes, answer: Callable[[bytes], None]) -> None:
        knows = dnslib.DNSRecord.parse(data).header.ar == 0
        answer(respond(data, "192.0.2.1") if knows else respond(data, rcode=Rcode.FORMERR))

    up = await start(old)
    assert await resolve(forwarder(up, timeout=PATIENCE)) == ["192.0.2.1"]
    assert len(up.udp) == 2


async def test_when_everybody_is_gone_the_old_answer_is_served(start: Start) -> None:
    clock, up = Clock(), await start(honest("192.0.2.1", ttl=60))
    one = forwarder(up, clock=clock)
    await resolve(one)
    up.behaviour = silent
    clock.now += 61
    answer = await one.resolve(ASK)
    assert (answer.answers[0].ttl, answer.reason and answer.reason.code) == (30, 3)


async def test_the_error_says_what_each_server_did(start: Start) -> None:
    dead, gone = await start(silent), await start(silent)
    await gone.stop()
    with pytest.raises(UpstreamError) as caught:
        await forwarder(dead, gone).resolve(ASK)
    text = str(caught.value)
    assert text.startswith("cannot resolve example.com.: ")
    assert f"{dead.server} did not answer in 0.3 s" in text
    assert f"{gone.server}: [Errno 111] Connection refused" in text


async def test_tries_are_bounded(start: Start) -> None:
    dead = await start(silent)
    with pytest.raises(UpstreamError):
        await forwarder(dead, timeout=0.05).resolve(ASK)
    assert len(dead.udp) == 2


async def test_the_whole_query_is_bounded_in_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TOGETHER", 0.2)
    dead = await start(silent)
    with pytest.raises(UpstreamError, match=r"gave up after 0\.2 s"):
        await forwarder(dead, timeout=PATIENCE).resolve(ASK)


async def test_queries_at_once_are_bounded(start: Start) -> None:
    one = forwarder(await start(silent), at_once=1, timeout=PATIENCE)
    waiting = asyncio.create_task(one.resolve(ASK))
    await asyncio.sleep(0)
    with pytest.raises(UpstreamError, match="1 queries are under way"):
        await one.resolve(Ask(Question(parse_name("other.example"), Type.A)))
    await one.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_stub_domains_have_their_own_servers(start: Start) -> None:
    default, corp = await start(honest("192.0.2.1")), await start(honest("192.0.2.2"))
    one = Forwarder(Routes((default.server,), ((parse_name("corp.example"), (corp.server,)),)), timeout=PATIENCE)
    assert await resolve(one, Ask(Question(parse_name("www.corp.example"), Type.A))) == ["192.0.2.2"]
    assert await resolve(one) == ["192.0.2.1"]
    await one.close()


async def test_through_the_server_forwarded_names_and_external_names(start: Start) -> None:
    up = await start(honest("192.0.2.1"))
    domain = parse_name("cluster.local")
    zone = Zone(Settings(domain), Index(domain, ttl=5))
    zone.index.put_service("shop", "out", Service("shop", "out", external_name=parse_name("example.com")))
    zone.synced = True
    listeners = bind(("127.0.0.1",), 0)
    task = asyncio.create_task(serve(listeners, Responder(zone), forwarder(up, timeout=PATIENCE)))
    words = ("+noall", "+answer", "+comments", "eXample.com", "out.shop.svc.cluster.local")
    outputs = []
    for transport in ("+notcp", "+tcp"):
        command = ("dig", "@127.0.0.1", "-p", str(listeners[0].port), transport, *words)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        outputs.append(out.decode())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for text in outputs:
        said = [line.split() for line in text.splitlines() if line and not line.startswith(";")]
        assert [line[:1] + line[2:] for line in said] == [
            ["eXample.com.", "IN", "A", "192.0.2.1"],
            ["out.shop.svc.cluster.local.", "IN", "CNAME", "example.com."],
            ["example.com.", "IN", "A", "192.0.2.1"],
        ]
        assert "flags: qr rd ra; QUERY" in text  # what is forwarded is not authoritative
        assert "flags: qr aa rd ra; QUERY" in text
    assert len(up.udp) == 1  # one name, asked once, whoever wanted it
