"""``/metrics``, ``/healthz`` and ``/livez``, as kube-proxy serves them.

Healthy means: nothing that was asked for has waited longer than the health timeout. A proxy with nothing to do is well.
"""

from __future__ import annotations

import logging
import socket
import time
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.proxy.metrics import Metrics
from agent.web import serve_app

log = logging.getLogger(__name__)


class Health:
    """When work was asked for and done (monotonic seconds)."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waiting_since: float | None = time.monotonic()  # until the first sync, that is what is waited for
        self._updated = time.time()

    def queued(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def synced(self) -> None:
        self._waiting_since, self._updated = None, time.time()

    @property
    def is_healthy(self) -> bool:
        return self._waiting_since is None or time.monotonic() - self._waiting_since < self._timeout

    def body(self) -> dict[str, object]:
        last = datetime.fromtimestamp(self._updated, UTC).isoformat()
        return {"lastUpdated": last, "currentTime": datetime.now(UTC).isoformat(), "nodeEligible": True}


async def serve(address: str, health: Health, metrics: Metrics) -> None:
    """Serve on ``host:port`` until cancelled. An address that is taken is told; Services do not depend on this."""
    host, _, port = address.rpartition(":")
    try:
        sock = socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        log.error("cannot serve metrics and health on %s: %s", address, error.strerror)
        return
    await serve_app(make_app(health, metrics), [sock])


def make_app(health: Health, metrics: Metrics) -> Starlette:
    async def healthy(request: Request) -> Response:
        return JSONResponse(health.body(), status_code=200 if health.is_healthy else 503)

    async def exposition(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthy), Route("/livez", healthy), Route("/metrics", exposition)])
