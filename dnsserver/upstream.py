"""Asking others: names that are not ours go to an upstream server.

One query is under way per question at any time; whoever asks the same meanwhile waits for it (single flight). Servers
are tried in their order, those that failed lately last, over UDP, then over TCP if the answer was cut. Every exchange
has a fresh random ID and a fresh socket, connected, so that the kernel chooses the port and drops datagrams from
elsewhere; what does not match ID and question is ignored and waited past. All is bounded: seconds per try, seconds
and tries per query, queries at once.

Where nobody answers at all (a machine without uplink), a client must not wait seconds for each name: a server that
failed lately gets only a moment to answer, and one try. That moment is enough for a server that is back to be noticed
by the next query; a server that is merely slow gets its full time again when its rest is over.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dnsserver import wire
from dnsserver.cache import Ask, Cache
from dnsserver.metrics import Metrics
from dnsserver.names import Name, is_below, render_name
from dnsserver.wire import Response, WireError
from dnsserver.zone import Answer, Question, Rcode

log = logging.getLogger(__name__)

TRY = 2.0  # seconds for one exchange
TOGETHER = 4.5  # seconds for one query: resolvers ask again after 5
MOST_TRIES = 6
AT_ONCE = 1000
REST = 10.0  # seconds for which a server that failed is asked last, and briefly
MOMENT = 0.25  # seconds that a resting server gets to answer
UNHELPFUL = frozenset({Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR, Rcode.BADVERS})


class UpstreamError(Exception):
    """No upstream gave an answer; the message says what each of them did."""


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream's address, and its port for UDP and TCP."""

    host: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_server(text: str) -> Server:
    """``1.1.1.1``, ``1.1.1.1:5353``, ``2606:4700::1111`` or ``[2606:4700::1111]:53``. Raises ValueError."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    ipaddress.ip_address(host)
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: {port!r} is not a port")
    return Server(host, int(port or 53))


@dataclass(frozen=True, slots=True)
class Routes:
    """Whom to ask: ``stubs`` by suffix, the longest that fits; ``default`` for everything else."""

    default: tuple[Server, ...] = ()
    stubs: tuple[tuple[Name, tuple[Server, ...]], ...] = ()

    def servers(self, name: Name) -> tuple[Server, ...]:
        fitting = [(suffix, servers) for suffix, servers in self.stubs if is_below(name, suffix)]
        return max(fitting, key=lambda stub: len(stub[0]))[1] if fitting else self.default

    def __bool__(self) -> bool:
        return bool(self.default or self.stubs)


class Forwarder:
    """``resolve`` asks upstreams and remembers. Belongs to one event loop; ``close`` it there."""

    def __init__(
        self,
        routes: Routes,
        *,
        cache: Cache | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        at_once: int = AT_ONCE,
        timeout: float = TRY,
    ) -> None:
        self._routes, self._cache, self._metrics = routes, Cache() if cache is None else cache, metrics
        self._clock, self._at_once, self._timeout = clock, at_once, timeout
        self._flights: dict[Ask, asyncio.Task[Answer]] = {}
        self._rests: dict[Server, float] = {}  # until when

    async def resolve(self, ask: Ask) -> Answer:
        """The upstreams' answer to ``ask``, or what was kept of it. Raises UpstreamError."""
        kept = self._cache.get(ask, self._clock())
        if self._metrics is not None:
            self._metrics.cache_miss() if kept is None else self._metrics.cache_hit(denial=not kept.answers)
        if kept is not None:
            return kept
        try:
            return await asyncio.shield(self._flight(ask))
        except UpstreamError:
            stale = self._cache.get_stale(ask, self._clock())
            if stale is None:
                raise
            if self._metrics is not None:
                self._metrics.served_stale()
            return stale

    async def close(self) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _flight(self, ask: Ask) -> asyncio.Task[Answer]:
        flight = self._flights.get(ask)
        if flight is None:
            if len(self._flights) >= self._at_once:
                if self._metrics is not None:
                    self._metrics.rejected.inc()
                raise UpstreamError(f"{len(self._flights)} queries are under way already")
            flight = self._flights[ask] = asyncio.create_task(self._fetch(ask))
            flight.add_done_callback(lambda done: self._landed(ask, done))
        return flight

    def _landed(self, ask: Ask, flight: asyncio.Task[Answer]) -> None:
        del self._flights[ask]
        if not flight.cancelled():
            flight.exception()  # seen, even if nobody waits any more

    async def _fetch(self, ask: Ask) -> Answer:
        tries: list[str] = []
        unhelpful: dict[Server, Answer] = {}
        try:
            async with asyncio.timeout(TOGETHER):
                for server, patience in self._order(ask.question.name):
                    if server in unhelpful:
                        continue
                    answer = await self._try(server, ask, tries, patience=patience)
                    if answer is not None and answer.rcode not in UNHELPFUL:
                        self._cache.put(ask, answer, self._clock())
                        if self._metrics is not None:
                            self._metrics.cache_entries(len(self._cache))
                        return answer
                    if answer is not None:
                        unhelpful[server] = answer
        except TimeoutError:
            tries.append(f"gave up after {TOGETHER:g} s")
        if unhelpful:
            return next(iter(unhelpful.values()))
        what = "; ".join(tries) or "no upstream is configured"
        raise UpstreamError(f"cannot resolve {render_name(ask.question.name)}: {what}")

    def _order(self, name: Name) -> Sequence[tuple[Server, float]]:
        """Servers to try one after another, and the seconds that each has: the rested, twice if there are few; then
        the resting.
        """
        servers = self._routes.servers(name)
        rested = [(server, self._timeout) for server in servers if not self._rests_now(server)]
        resting = [(server, min(self._timeout, MOMENT)) for server in servers if self._rests_now(server)]
        again = rested if len(servers) < 2 else []
        return [*rested, *again, *resting][:MOST_TRIES]

    def _rests_now(self, server: Server) -> bool:
        return self._rests.get(server, float("-inf")) > self._clock()

    async def _try(self, server: Server, ask: Ask, tries: list[str], *, patience: float) -> Answer | None:
        """One server's answer; None, and a line in ``tries``, if it has none."""
        started = time.perf_counter()
        answer = None
        try:
            answer = await self._exchange(server, ask, patience)
            self._rests.pop(server, None)
        except TimeoutError:
            tries.append(f"{server} did not answer in {patience:g} s")
        except (OSError, WireError, asyncio.IncompleteReadError) as error:
            tries.append(f"{server}: {error}")
        if answer is None and not self._rests_now(server):  # a rest is not prolonged: then it gets its full time again
            self._rests[server] = self._clock() + REST
        if self._metrics is not None:
            seconds = time.perf_counter() - started
            self._metrics.forwarded(str(server), None if answer is None else answer.rcode, seconds)
        return answer

    async def _exchange(self, server: Server, ask: Ask, patience: float) -> Answer:
        response = await self._over_udp(server, ask, patience, edns=True)
        if response.answer.rcode in (Rcode.FORMERR, Rcode.NOTIMP, Rcode.BADVERS):
            response = await self._over_udp(
                server, ask, patience, edns=False
            )  # RFC 6891 section 7: it may not know EDNS
        if response.truncated:
            async with asyncio.timeout(self._timeout):  # it is there: it has just answered
                response = await _over_tcp(server, ask)
        return response.answer

    async def _over_udp(self, server: Server, ask: Ask, patience: float, *, edns: bool) -> Response:
        ident = secrets.randbelow(1 << 16)
        query = wire.encode_query(ident, ask.question, do=ask.do, cd=ask.cd, edns=edns)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Datagrams(ident, ask.question), remote_addr=(server.host, server.port)
        )
        try:
            transport.sendto(query)
            async with asyncio.timeout(patience):
                return await protocol.response
        finally:
            transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    """One query's socket: the first datagram that is its response, or the error the kernel reports."""

    def __init__(self, ident: int, question: Question) -> None:
        self._ident, self._question = ident, question
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        try:
            response = wire.parse_response(data, self._ident, self._question)
        except WireError as error:
            log.debug("a datagram from %s is ignored: %s", addr, error)
            return
        if not self.response.done():
            self.response.set_result(response)

    def error_received(self, exc: Exception) -> None:
        if not self.response.done():
            self.response.set_exception(exc)


async def _over_tcp(server: Server, ask: Ask) -> Response:
    ident = secrets.randbelow(1 << 16)
    query = wire.encode_query(ident, ask.question, do=ask.do, cd=ask.cd)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return wire.parse_response(await reader.readexactly(length), ident, ask.question)
    finally:
        writer.transport.abort()  # nothing of ours is left to send
