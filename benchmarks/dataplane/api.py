"""``python -m benchmarks.dataplane.api NETNS SERVICES ENDPOINTS``: an API server in a process of its own, with as much
of the API as a proxy needs, so that a proxy can be measured without one.

It lives in the namespace NETNS, on its loopback, and prints the port. Lists come in pages and watches are streams, as
everywhere; the one thing that can be written is the list of a slice's endpoints (a merge patch). There is no Node.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.lifetime import run_until_told
from agent.web import serve_app
from benchmarks.dataplane.world import SLICES, Size, service_objects, slice_objects
from netns import namespaces

Json = dict[str, Any]


class Kind:
    """One kind of object. Objects are kept as the text that is sent."""

    def __init__(self, objects: Iterable[Json]) -> None:
        self._texts = {obj["metadata"]["name"]: json.dumps(obj) for obj in objects}
        self._names = list(self._texts)
        self._version = len(self._names)
        self._events: list[tuple[int, bytes]] = []
        self._watchers: set[asyncio.Event] = set()

    async def read(self, request: Request) -> Response:
        query = request.query_params
        if "watch" in query:
            return StreamingResponse(self._watch(int(query["resourceVersion"])), media_type="application/json")
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        meta = {"resourceVersion": str(self._version)}
        if start + limit < len(self._names):
            meta["continue"] = str(start + limit)
        items = ",".join(self._texts[name] for name in self._names[start : start + limit])
        text = f'{{"kind":"List","metadata":{json.dumps(meta)},"items":[{items}]}}'
        return Response(text, media_type="application/json")

    async def patch(self, request: Request) -> Response:
        name, changes = request.path_params["name"], await request.json()
        obj = {**json.loads(self._texts[name]), **changes}
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._texts[name] = json.dumps(obj)
        self._events.append((self._version, f'{{"type":"MODIFIED","object":{self._texts[name]}}}\n'.encode()))
        for watcher in self._watchers:
            watcher.set()
        return JSONResponse(obj)

    async def _watch(self, since: int) -> AsyncIterator[bytes]:
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            while True:
                for version, event in self._events:
                    if version > since:
                        since = version
                        yield event
                news.clear()
                await news.wait()
        finally:
            self._watchers.remove(news)


async def _serve(size: Size) -> None:
    services, slices, nodes = Kind(service_objects(size)), Kind(slice_objects(size)), Kind(())
    routes = [
        Route("/api/v1/services", services.read),
        Route("/apis/discovery.k8s.io/v1/endpointslices", slices.read),
        Route("/api/v1/nodes", nodes.read),
        Route(f"{SLICES}/{{name}}", slices.patch, methods=["PATCH"]),
    ]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        await serve_app(Starlette(routes=routes), [sock], ready=lambda: print(port, flush=True))


if __name__ == "__main__":
    namespaces.enter(sys.argv[1])
    run_until_told(_serve(Size(int(sys.argv[2]), int(sys.argv[3]))))
