"""Serving HTTP from inside a component: uvicorn on sockets that listen already, until cancelled.

uvicorn likes to own its process. Here it is one coroutine among others: it leaves signals alone (the process has its
own handlers), says when it listens, and ends in order when it is cancelled. It wakes once a second, for the Date
header, where uvicorn's own loop would look ten times whether it is time to end: an idle node should be idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

DATE = 1.0  # seconds between two looks at the clock for the Date header


async def serve_app(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    *,
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
    grace: int = 1,
    **settings: Any,
) -> None:
    """Serve on ``sockets`` until cancelled, then close them. ``stopping`` is called when the end begins.

    ``grace``: seconds that requests under way get at the end. ``settings``: uvicorn's, for TLS and WebSockets. A
    WebSocket's peer that does not answer pings is not given up: one that is slow to read cannot answer either.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        **{"ws": "none", "ws_ping_timeout": None, **settings},
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config, ready)
    serving = asyncio.create_task(server.serve(sockets=list(sockets)))
    try:
        await asyncio.shield(serving)
    finally:
        stopping()
        server.end()  # a server that were cancelled would leave its connections open
        await asyncio.gather(serving, return_exceptions=True)
        for listener in sockets:
            listener.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE):
                    await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
