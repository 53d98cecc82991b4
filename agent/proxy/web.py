"""``/metrics``, ``/healthz`` and ``/livez``, as kube-proxy serves them.

Healthy means: nothing that was asked for has waited longer than the health timeout. A proxy with nothing to do is well.
``/livez`` says just that: restart me if I am not. ``/healthz`` is what load balancers ask, and fails as well once this
node is about to go (KEP-3836): connections that are here go on, new ones had better be brought to another node.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.proxy.metrics import Metrics
from agent.web import serve_app

log = logging.getLogger(__name__)

HEADERS = {"X-Content-Type-Options": "nosniff"}


class Health:
    """When work was asked for and done (monotonic seconds), and whether the node is to have new connections."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waiting_since: float | None = time.monotonic()  # until the first sync, that is what is waited for
        self._updated = time.time()
        self.node_eligible = True

    def queued(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def synced(self) -> None:
        self._waiting_since, self._updated = None, time.time()

    @property
    def is_healthy(self) -> bool:
        """Does the proxy do its work in time? Says nothing of the node."""
        return self._waiting_since is None or time.monotonic() - self._waiting_since < self._timeout

    def body(self) -> dict[str, object]:
        """``lastUpdated`` of a healthy proxy is now: nothing had to be done since its last sync, or not for long."""
        now, healthy = time.time(), self.is_healthy
        updated = now if healthy else self._updated
        return {"lastUpdated": _timestamp(updated), "currentTime": _timestamp(now), "healthy": healthy}


async def serve(addresses: Iterable[str], health: Health, metrics: Metrics, routes: Iterable[Route] = ()) -> None:
    """Serve on each ``host:port`` until cancelled. One that is taken is told; Services do not depend on this."""
    opened = [_open(address) for address in addresses]
    sockets = [sock for sock in opened if sock is not None]
    if sockets:
        await serve_app(make_app(health, metrics, routes), sockets)


def make_app(health: Health, metrics: Metrics, routes: Iterable[Route] = ()) -> Starlette:
    async def ready(request: Request) -> Response:
        code = 200 if health.is_healthy and health.node_eligible else 503
        metrics.probed("healthz", code)
        return JSONResponse({**health.body(), "nodeEligible": health.node_eligible}, code, HEADERS)

    async def alive(request: Request) -> Response:
        code = 200 if health.is_healthy else 503
        metrics.probed("livez", code)
        return JSONResponse(health.body(), code, HEADERS)

    async def exposition(request: Request) -> Response:
        text = await asyncio.to_thread(generate_latest, metrics.registry)  # some of it asks the kernel
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    own = [Route("/healthz", ready), Route("/livez", alive), Route("/metrics", exposition)]
    return Starlette(routes=[*own, *routes])


def _open(address: str) -> socket.socket | None:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except OSError as error:
        log.error("cannot serve metrics and health on %s: %s", address, error.strerror)
        return None


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
