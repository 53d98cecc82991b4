"""/ready, /health and /metrics over HTTP, as CoreDNS's plugins of these names answer them.

``/ready`` is 200 once the zone is whole, and 503 before: a readiness probe keeps clients away from a server that could
only say SERVFAIL. ``/health`` is 200 for as long as the event loop turns.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.web import serve_app

log = logging.getLogger(__name__)


def make_app(*, is_ready: Callable[[], bool], registry: CollectorRegistry) -> Starlette:
    async def ready(_: Request) -> Response:
        return PlainTextResponse("OK") if is_ready() else PlainTextResponse("kubernetes", status_code=503)

    async def health(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/ready", ready), Route("/health", health), Route("/metrics", metrics)])


async def serve_http(address: tuple[str, int], app: Starlette) -> None:
    """Serve ``app`` until cancelled. A port that is taken costs metrics, not names: it is told to the log."""
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listening = socket.create_server(address, family=family)
    except OSError as error:
        log.error("no /ready, /health, /metrics: cannot listen on %s port %d: %s", *address, error.strerror)
        return
    await serve_app(app, [listening])
