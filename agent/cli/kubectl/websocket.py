"""A WebSocket with blocking ``send`` and ``recv``, for any number of threads.

The connection lives in an event loop, in a thread of its own, and nobody else touches it. The library has a blocking
client too, but that reads in one thread and writes in another, and a TLS connection must not be used by two threads at
a time (openssl-threads(7)): where the server's session tickets (RFC 8446, 4.6.1) arrived just when the request was
sent, the request was lost, and to give up after that took for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect

T = TypeVar("T")

CLOSE = 1.0  # seconds that the server may take to say goodbye: it is not heard where its output was not read up


class BlockingWebSocket:
    """Made by ``open_websocket``. ``send`` and ``recv`` raise websockets' ConnectionClosed when it is over."""

    def __init__(self, connection: ClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection, self._loop = connection, loop

    def send(self, message: bytes) -> None:
        _wait(self._connection.send(message), self._loop)

    def recv(self) -> str | bytes:
        return _wait(self._connection.recv(), self._loop)

    def close(self) -> None:
        """Who is in ``send`` or ``recv`` is woken. Idempotent."""
        _wait(_close(self._connection), self._loop)


@contextlib.contextmanager
def open_websocket(url: str, **options: Any) -> Iterator[BlockingWebSocket]:
    """``options``: of websockets' ``connect``, whose OSError and WebSocketException are raised where it fails.

    A server that does not answer pings is not given up: it may be slow to read what is sent, and so may we.
    """
    with _loop_in_a_thread() as loop:
        connection = _wait(_open(url, {"ping_timeout": None, "close_timeout": CLOSE, **options}), loop)
        socket = BlockingWebSocket(connection, loop)
        try:
            yield socket
        finally:
            socket.close()


async def _open(url: str, options: dict[str, Any]) -> ClientConnection:
    return await connect(url, **options)


async def _close(connection: ClientConnection) -> None:
    try:
        async with asyncio.timeout(2 * CLOSE):
            await connection.close()
    except TimeoutError:  # our goodbye waits behind what a server does not read
        connection.transport.abort()
        await connection.wait_closed()


def _wait(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Its result, from another thread than the loop's. An interrupted wait (Ctrl-C) is the end of the work too."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@contextlib.contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="websocket", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        _wait(_end_tasks(), loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
