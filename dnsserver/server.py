"""Sockets: requests come in over UDP and TCP, responses go out.

Everything a request can do here is bounded. Over UDP a batch of datagrams is read per wake-up, so that TCP and timers
get their turn; what must be asked upstream becomes a task, and the forwarder limits how many there are. Over TCP (RFC
7766) a client may send several queries without waiting, in any pieces, and gets the answers as they come; the number
of connections, of connections per client and of unanswered queries per connection is limited, and a client that
neither sends a whole query nor reads its answers in time is cut off.

Addresses are bound one by one: over a wildcard a UDP response would leave from whatever address the route prefers,
which need not be the one that was asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from dnsserver.cache import Ask
from dnsserver.metrics import Metrics
from dnsserver.names import parse_address
from dnsserver.ports import find_holder
from dnsserver.respond import Forward, Reply, Responder
from dnsserver.upstream import Forwarder, UpstreamError
from dnsserver.wire import CD
from dnsserver.zone import NO_REACHABLE_AUTHORITY, Answer, Rcode, Reason

log = logging.getLogger(__name__)

BATCH = 32  # datagrams, or queries of one connection, before others get their turn
RECEIVE_BUFFER = 1 << 20  # octets; the kernel caps it at net.core.rmem_max
EPHEMERAL_TRIES = 16


class BindError(Exception):
    """An address cannot be listened on; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of TCP. ``idle``: seconds for the next whole query, and for an answer to be read."""

    connections: int = 512
    per_client: int = 64
    pipelined: int = 16
    idle: float = 10.0


@dataclass(frozen=True, slots=True)
class Listener:
    """One address: its UDP socket and its TCP socket, on the same port."""

    address: str
    port: int
    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def bind(addresses: Sequence[str], port: int) -> tuple[Listener, ...]:
    """Listen on every address, or on none. Port 0 takes a free one for each. Raises BindError."""
    with ExitStack() as undo:
        listeners = []
        for address in addresses:
            listener = _bind_one(address, port)
            undo.callback(listener.close)
            listeners.append(listener)
        undo.pop_all()
    return tuple(listeners)


def _bind_one(address: str, port: int) -> Listener:
    for _ in range(EPHEMERAL_TRIES - 1 if port == 0 else 0):  # a port that is free over UDP may be taken over TCP
        with suppress(BindError):
            return _bind_pair(address, port)
    return _bind_pair(address, port)


def _bind_pair(address: str, port: int) -> Listener:
    udp = _bind_socket(address, port, socket.SOCK_DGRAM)
    try:
        port = udp.getsockname()[1]
        return Listener(address, port, udp, _bind_socket(address, port, socket.SOCK_STREAM))
    except BindError:
        udp.close()
        raise


def _bind_socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    version = parse_address(address).version
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol; answers would wait 40 ms.
    number = socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind, number)
    try:
        made.setblocking(False)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(128)
    except OSError as error:
        made.close()
        proto = "tcp" if kind == socket.SOCK_STREAM else "udp"
        raise BindError(_why(error, address, port, proto)) from error
    return made


def _why(error: OSError, address: str, port: int, proto: str) -> str:
    what = f"cannot listen on {address} port {port}/{proto}: {error.strerror}"
    match error:
        case PermissionError():
            return f"{what}: ports below 1024 need root (or CAP_NET_BIND_SERVICE)"
        case OSError(errno=98):  # EADDRINUSE
            holder = find_holder(address, port, proto)
            held = f": {holder} has it; stop it, or let it leave this address" if holder else ""
            return f"{what}{held}; `ss -lnp sport = :{port}` shows who listens"
        case OSError(errno=99):  # EADDRNOTAVAIL
            return f"{what}: no interface of this network namespace has that address (`ip address` lists them)"
    return what


async def serve(
    listeners: Sequence[Listener],
    responder: Responder,
    forwarder: Forwarder,
    *,
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    listening: Callable[[], None] = lambda: None,
) -> None:
    """Answer until cancelled; then close ``listeners`` and ``forwarder``. ``listening`` is called when it begins."""
    server = Server(responder, forwarder, metrics=metrics, limits=limits or Limits())
    try:
        for listener in listeners:
            await server.open(listener)
        listening()
        await asyncio.Event().wait()
    finally:
        await server.close()
        await forwarder.close()
        for listener in listeners:
            listener.close()


class Server:
    """The moving parts behind ``serve``."""

    def __init__(
        self, responder: Responder, forwarder: Forwarder, *, metrics: Metrics | None = None, limits: Limits
    ) -> None:
        self._responder, self._forwarder, self._metrics, self._limits = responder, forwarder, metrics, limits
        self._readers: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._clients: Counter[str] = Counter()

    async def open(self, listener: Listener) -> None:
        asyncio.get_running_loop().add_reader(listener.udp, self._read_datagrams, listener.udp)
        self._readers.append(listener.udp)
        self._servers.append(await asyncio.start_server(self._connected, sock=listener.tcp))

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for udp in self._readers:
            loop.remove_reader(udp)
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        for writer in self._connections.values():
            writer.transport.abort()  # their tasks then end by themselves; asyncio calls a cancelled one an error
        await asyncio.gather(*self._tasks, *self._connections, return_exceptions=True)

    # UDP

    def _read_datagrams(self, udp: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data, client = udp.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("cannot receive on UDP: %s", error)
                return
            self._datagram(udp, data, client)

    def _datagram(self, udp: socket.socket, data: bytes, client: Any) -> None:
        started = time.perf_counter()
        outcome = self._responder.receive(data, udp=True)
        if isinstance(outcome, Forward):
            self._spawn(self._forward_datagram(udp, data, client, outcome, started))
        elif outcome is not None:
            self._send(udp, outcome, client)
            self._observe(outcome, udp, len(data), started, "udp")

    async def _forward_datagram(
        self, udp: socket.socket, data: bytes, client: Any, forward: Forward, started: float
    ) -> None:
        reply = self._responder.finish(forward, await self._ask(forward), udp=True)
        self._send(udp, reply, client)
        self._observe(reply, udp, len(data), started, "udp")

    def _send(self, udp: socket.socket, reply: Reply, client: Any) -> None:
        try:
            udp.sendto(reply.data, client)
        except OSError as error:  # full buffer, no route back, a firewall: UDP promises nothing, the client asks again
            log.debug("cannot answer %s: %s", client, error)

    # Upstream

    async def _ask(self, forward: Forward) -> Answer:
        edns = forward.query.edns
        ask = Ask(forward.question, do=edns is not None and edns.do, cd=bool(forward.query.flags & CD))
        try:
            return await self._forwarder.resolve(ask)
        except UpstreamError as error:
            log.info("%s", error)
            reason = Reason(NO_REACHABLE_AUTHORITY, str(error))
            return Answer(Rcode.SERVFAIL, authoritative=False, reason=reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a query was not answered", exc_info=error)

    # TCP

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = str((writer.get_extra_info("peername") or ("gone",))[0])
        full = len(self._connections) >= self._limits.connections
        if full or self._clients[client] >= self._limits.per_client:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        self._clients[client] += 1
        try:
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            log.debug("connection of %s ends: %s", client, str(error) or type(error).__name__)
        finally:
            del self._connections[task]
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries until the client ends or idles; then the answers still owed. What is known is answered in turn."""
        owed: set[asyncio.Task[None]] = set()
        room = asyncio.Semaphore(self._limits.pipelined)
        try:
            for turn in itertools.count(1):
                if turn % BATCH == 0:
                    await asyncio.sleep(0)  # reading what is there already gives nobody else a turn
                async with asyncio.timeout(self._limits.idle):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await reader.readexactly(length)
                    started = time.perf_counter()
                    outcome = self._responder.receive(data, udp=False)
                    if isinstance(outcome, Forward):
                        await room.acquire()
                        task = self._spawn(self._forward_message(outcome, data, writer, room, started))
                        owed.add(task)
                        task.add_done_callback(owed.discard)
                    elif outcome is not None:
                        await self._write(outcome, data, writer, started)
        except asyncio.IncompleteReadError:
            if owed:
                await asyncio.wait(owed, timeout=self._limits.idle)
        finally:
            for task in owed:
                task.cancel()

    async def _forward_message(
        self, forward: Forward, data: bytes, writer: asyncio.StreamWriter, room: asyncio.Semaphore, started: float
    ) -> None:
        try:
            reply = self._responder.finish(forward, await self._ask(forward), udp=False)
            async with asyncio.timeout(self._limits.idle):
                await self._write(reply, data, writer, started)
        except (OSError, TimeoutError):
            writer.transport.abort()  # it does not read, or it has gone
        finally:
            room.release()

    async def _write(self, reply: Reply, data: bytes, writer: asyncio.StreamWriter, started: float) -> None:
        writer.write(struct.pack("!H", len(reply.data)) + reply.data)
        self._observe(reply, writer.get_extra_info("socket"), len(data), started, "tcp")
        await writer.drain()

    def _observe(self, reply: Reply, on: socket.socket, asked: int, started: float, proto: str) -> None:
        if self._metrics is not None:
            family = 4 if on.family == socket.AF_INET else 6
            seconds = time.perf_counter() - started
            self._metrics.observe(reply, asked=asked, seconds=seconds, proto=proto, family=family)
