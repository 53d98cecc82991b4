"""Serving: the store is opened, the default namespaces are there, sockets listen, TLS is on."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from agent.apiserver import namespaces
from agent.apiserver.api import Api, load
from agent.apiserver.app import App
from agent.apiserver.paths import Target
from agent.apiserver.query import WriteOptions
from agent.apiserver.retention import forget_old_events
from agent.apiserver.status import StatusError
from agent.apiserver.streams import open_kubelets
from agent.apiserver.write import create_object
from agent.config import Config
from agent.store import StoreError
from agent.store.sqlite import open_sqlite
from agent.telemetry import Timeline
from agent.web import serve_app

log = logging.getLogger(__name__)

GRACE = 2  # seconds that requests under way get when the server ends
KEEP_ALIVE = 120  # seconds that an idle connection is kept: longer than clients keep theirs, so that they close first
BACKLOG = 512


class _Denials(logging.Filter):
    """uvicorn calls it an error when a WebSocket is refused in HTTP, and a warning when somebody asks for SPDY."""

    USUAL = ("ASGI callable returned without completing handshake", "Unsupported upgrade request")

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.USUAL)


_DENIALS = _Denials()


class _WebSockets(WebSocketsSansIOProtocol):
    """uvicorn's, for clients that offer a subprotocol with a slash in its name, as Kubernetes' ``SPDY/3.1+...`` has.

    RFC 6455 (4.1) asks for a token there, so websockets would refuse the handshake. What it makes of the offer nobody
    needs: uvicorn reads the names itself, and the application chooses.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.conn.process_subprotocol = lambda headers: None  # type: ignore[method-assign]


async def serve(config: Config, *, sockets: Sequence[socket.socket], ready: Callable[[], None]) -> None:
    """Serve on ``sockets`` (listening, inherited) and on the node's address until cancelled.

    Raises StoreError if the store cannot be used, OSError if the node's address cannot be bound or the TLS files
    cannot be read.
    """
    config.paths.run_dir.mkdir(parents=True, exist_ok=True)
    listeners = [*sockets, *_listen_on_node(config, sockets)]
    try:
        async with _application(config) as app:
            await _serve(config, app, listeners, ready)
    finally:
        for listener in listeners:
            listener.close()


def _listen_on_node(config: Config, inherited: Sequence[socket.socket]) -> list[socket.socket]:
    if not config.node_ip:
        return []
    address = (config.node_ip, config.api_port)
    if address in [listener.getsockname()[:2] for listener in inherited]:
        return []
    family = socket.AF_INET6 if ipaddress.ip_address(config.node_ip).version == 6 else socket.AF_INET
    try:
        return [socket.create_server(address, family=family, backlog=BACKLOG)]
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from error


@asynccontextmanager
async def _application(config: Config) -> AsyncIterator[App]:
    store = open_sqlite(config.paths.database)
    kubelets = open_kubelets(config.paths.pki)
    try:
        api = await load(store, config, Timeline(config.paths.timeline))
        for conflict in api.context.conflicts:
            log.warning("%s", conflict)
        await ensure_namespaces(api)
        yield App(api, kubelets, (config.paths.pki / "token").read_text().strip())
    finally:
        await kubelets.close()
        await store.close()


async def ensure_namespaces(api: Api) -> None:
    """The namespaces that every cluster has. Those that are there are left alone."""
    for name in namespaces.DEFAULT:
        kind = namespaces.NAMESPACES
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
        try:
            await create_object(api, Target(kind, "", "", ""), obj, WriteOptions())
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise StoreError(f"cannot create namespace {name}: {error.message}") from error


async def _serve(config: Config, app: App, listeners: list[socket.socket], ready: Callable[[], None]) -> None:
    pki = config.paths.pki
    logging.getLogger("uvicorn.error").addFilter(_DENIALS)
    forgetting = asyncio.create_task(forget_old_events(app.api))
    try:
        await serve_app(
            app,
            listeners,
            ready=ready,
            stopping=app.stopping.set,
            grace=GRACE,
            ws=_WebSockets,
            ws_max_size=1 << 30,
            ws_per_message_deflate=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            ssl_keyfile=pki / "apiserver.key",
            ssl_certfile=pki / "apiserver.crt",
        )
    finally:
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
