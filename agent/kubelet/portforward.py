"""``kubectl port-forward``: connections of a person's machine, led into a pod's network namespace.

One WebSocket carries SPDY (``spdy``), one SPDY session any number of connections. For each the client opens two
streams with the same ``requestid``: ``error``, on which we say what went wrong, and ``data``, the connection's bytes.
It is connected to localhost *inside* the pod, so that it also reaches what listens there only (KEP-4006, and the CRI's
PortForward). No Service and no rule of ours is involved.

What a pod does not read holds up the other connections of the same session: SPDY's windows, which could prevent that,
are not what Kubernetes' clients use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from agent.kubelet.spdy import Data, Decoder, Encoder, Frame, Opened, Ping, Reset, SpdyError, render_data, render_ping
from netns import namespaces

log = logging.getLogger(__name__)

CHUNK = 32768
WAITING = 16  # pieces that a connection may be behind before the session waits for it
LOCALHOST = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

Send = Callable[[bytes], Awaitable[None]]
Connect = Callable[[int], Awaitable[socket.socket]]  # to a port; raises OSError


async def connect_inside(netns: str, port: int) -> socket.socket:
    """A connection to localhost in a namespace (``""``: ours). Raises OSError."""
    problem: OSError | None = None
    for family, address in LOCALHOST:
        made = await asyncio.to_thread(_make_socket, netns, family)
        try:
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        except OSError as error:
            problem = problem or error  # IPv4's is the one to tell
            made.close()
        except BaseException:
            made.close()
            raise
        else:
            return made
    assert problem is not None
    raise problem


def _make_socket(netns: str, family: int) -> socket.socket:
    """A socket belongs to the namespace in which it is made, wherever it is used."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    return namespaces.inside(netns, make) if netns else make()


class Session:
    """Port forwarding for one client, until it goes."""

    def __init__(self, websocket: WebSocket, connect: Connect) -> None:
        self._websocket, self._connect = websocket, connect
        self._decoder, self._encoder = Decoder(), Encoder()
        self._errors: dict[str, int] = {}  # error streams whose data stream has not come yet, by requestid
        self._forwards: dict[int, Forward] = {}  # by data stream
        self._tasks = set[asyncio.Task[None]]()
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        await self._websocket.accept()
        try:
            while (message := await self._websocket.receive())["type"] == "websocket.receive":
                for frame in self._decoder.feed(message.get("bytes") or b""):
                    await self._take(frame)
        except SpdyError as error:
            log.warning("port-forward: %s", error)
            await self._websocket.close(code=1002, reason=str(error))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, frame: Frame) -> None:
        match frame:
            case Opened():
                await self._open(frame)
            case Data(stream, payload, last) if stream in self._forwards:
                await self._forwards[stream].feed(payload, last=last)
            case Reset(stream) if stream in self._forwards:
                self._forwards[stream].abort()
            case Ping():
                await self._send(render_ping(frame.number))

    async def _open(self, opened: Opened) -> None:
        """Raises SpdyError."""
        request, port = opened.headers.get("requestid", ""), opened.headers.get("port", "")
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise SpdyError(f"{port!r} is no port")
        kind = opened.headers.get("streamtype")
        if kind == "error":
            self._errors[request] = opened.stream
        elif kind != "data" or request not in self._errors:
            raise SpdyError(f"a stream of type {kind!r} for request {request!r} was not to be expected")
        await self._send(self._encoder.reply(opened.stream))
        if kind == "data":
            self._start(Forward(self._send, opened.stream, self._errors.pop(request)), opened.stream, int(port))

    def _start(self, forward: Forward, stream: int, port: int) -> None:
        self._forwards[stream] = forward
        task = asyncio.create_task(forward.run(self._connect, port))
        self._tasks.add(task)
        forward.task = task
        task.add_done_callback(lambda done: self._ended(stream, done))

    def _ended(self, stream: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._forwards.pop(stream, None)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, WebSocketDisconnect):
            log.warning("port-forward: %s: %s", type(problem).__name__, problem)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._websocket.send_bytes(data)


class Forward:
    """One connection: from the client's data stream to the pod and back."""

    def __init__(self, send: Send, data: int, error: int) -> None:
        self._send, self._data, self._error = send, data, error
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue(maxsize=WAITING)
        self._over = False
        self.task: asyncio.Task[None] | None = None

    async def feed(self, payload: bytes, *, last: bool) -> None:
        """What the client sends; an empty piece in the queue is its end."""
        for piece in ([payload] if payload else []) + ([b""] if last else []):
            if not self._over:
                await self._incoming.put(piece)

    def abort(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self, connect: Connect, port: int) -> None:
        """Until the pod has said all; then both streams end, whatever the reason was."""
        try:
            await self._forward(await connect(port))
        except OSError as error:
            said = f"cannot connect to localhost:{port} inside the pod: {os.strerror(error.errno or 0)}"
            await self._send(render_data(self._error, said.encode()))
        finally:
            self._over = True
            while not self._incoming.empty():
                self._incoming.get_nowait()  # whoever waits in feed() may go on
        await self._send(render_data(self._data, b"", last=True) + render_data(self._error, b"", last=True))

    async def _forward(self, connected: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connected)
        up = asyncio.create_task(self._up(writer))
        try:
            with contextlib.suppress(ConnectionError):  # an end like any other: the client sees it
                while data := await reader.read(CHUNK):
                    await self._send(render_data(self._data, data))
        finally:
            up.cancel()
            writer.transport.abort()  # what the pod has not read it will not read
            await asyncio.gather(up, return_exceptions=True)

    async def _up(self, writer: Any) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await self._incoming.get():
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
