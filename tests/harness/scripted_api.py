"""One collection behind a real HTTP server on loopback, which misbehaves on request.

It speaks just enough of the API for an informer (list in pages, watch, bookmarks, 410) and lets a test do to it what
happens to real servers: history is compacted, connections break in the middle of a line, watches end, requests fail.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.kube.client import Client, connect
from agent.web import serve_app

PATH = "/api/v1/configmaps"
Json = dict[str, Any]


class Broken(Exception):
    """Raised inside a response to break its connection."""


class ScriptedApi:
    """``requests``: the query of every list and watch, in order."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.version = 100
        self.oldest = 0
        self.requests: list[dict[str, str]] = []
        self.failures: list[Response] = []
        self.watch_failures: list[Response] = []
        self.writes: list[tuple[str, str, Any, str]] = []
        self.write_answers: list[Response] = []
        self._history: list[tuple[int, Json]] = []
        self._watchers: list[asyncio.Queue[bytes | Broken | None]] = []

    # What a test does.

    def put(self, name: str, *, namespace: str = "default", uid: str = "", **fields: Any) -> Json:
        """Create or change an object; watchers hear of it."""
        key = (namespace, name)
        known = self.objects.get(key)
        same = known is not None and (not uid or known["metadata"]["uid"] == uid)
        self.version += 1
        chosen = uid or (known["metadata"]["uid"] if known else f"uid-{self.version}")
        meta = {"name": name, "namespace": namespace, "uid": chosen, "resourceVersion": str(self.version)}
        self.objects[key] = {"metadata": meta, **fields}
        self._emit("MODIFIED" if same else "ADDED", self.objects[key])
        return self.objects[key]

    def delete(self, name: str, *, namespace: str = "default") -> None:
        gone = self.objects.pop((namespace, name))
        self.version += 1
        meta = {**gone["metadata"], "resourceVersion": str(self.version)}
        self._emit("DELETED", {**gone, "metadata": meta})

    def bookmark(self) -> None:
        """Move on without a change to this collection, and tell watchers so."""
        self.version += 1
        self._emit("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    def compact(self) -> None:
        """Forget all history."""
        self._history.clear()
        self.oldest = self.version

    def send(self, line: bytes) -> None:
        """Say something to every watcher."""
        for watcher in self._watchers:
            watcher.put_nowait(line)

    def end_watches(self) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(None)

    def break_watches(self) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(Broken())

    async def watched(self, times: int = 1) -> None:
        """Wait until a watch is under way and ``times`` have been asked for."""
        await until(lambda: self._watchers and sum("watch" in query for query in self.requests) >= times)

    # What the server does.

    def _emit(self, kind: str, obj: Json) -> None:
        event = {"type": kind, "object": obj}
        self._history.append((self.version, event))
        self.send(json.dumps(event).encode() + b"\n")

    async def read(self, request: Request) -> Response:
        query = dict(request.query_params)
        self.requests.append(query)
        if "watch" in query:
            return self.watch_failures.pop(0) if self.watch_failures else self._watch(int(query["resourceVersion"]))
        return self.failures.pop(0) if self.failures else self._list(query)

    def _list(self, query: dict[str, str]) -> Response:
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        items = [self.objects[key] for key in sorted(self.objects)]
        meta = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            meta["continue"] = str(start + limit)
        return JSONResponse({"kind": "List", "metadata": meta, "items": items[start : start + limit]})

    def _watch(self, since: int) -> Response:
        if since < self.oldest:
            return JSONResponse({"kind": "Status", "code": 410, "message": "too old resource version"}, 410)
        queue: asyncio.Queue[bytes | Broken | None] = asyncio.Queue()
        for version, event in self._history:
            if version > since:
                queue.put_nowait(json.dumps(event).encode() + b"\n")
        self._watchers.append(queue)
        return StreamingResponse(self._stream(queue), media_type="application/json")

    async def _stream(self, queue: asyncio.Queue[bytes | Broken | None]) -> AsyncIterator[bytes]:
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Broken):
                    raise item
                yield item
        finally:
            self._watchers.remove(queue)

    async def write(self, request: Request) -> Response:
        body = await request.body()
        kind = request.headers.get("content-type", "")
        self.writes.append((request.method, request.url.path, json.loads(body) if body else None, kind))
        return self.write_answers.pop(0) if self.write_answers else JSONResponse({"metadata": {"name": "stored"}})


@asynccontextmanager
async def serve_scripted(folder: Path) -> AsyncIterator[tuple[ScriptedApi, Client]]:
    """The server, and a client connected to it through a kubeconfig in ``folder``."""
    api = ScriptedApi()
    routes = [
        Route(PATH, api.read, methods=["GET"]),
        Route("/{path:path}", api.write, methods=["POST", "PUT", "PATCH", "DELETE", "GET"]),
    ]
    sock = socket.create_server(("127.0.0.1", 0))
    listening = asyncio.Event()
    serving = asyncio.create_task(serve_app(Starlette(routes=routes), [sock], ready=listening.set))
    client = connect(write_kubeconfig(folder, f"http://127.0.0.1:{sock.getsockname()[1]}"))
    try:
        await listening.wait()
        yield api, client
    finally:
        await client.close()
        api.end_watches()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def write_kubeconfig(folder: Path, server: str) -> Path:
    path = folder / "scripted.kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def until(condition: Any, *, seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fails after so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


def refused(code: int, reason: str, message: str, **details: Any) -> Response:
    """A Status as an API server sends it."""
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return JSONResponse(body, code)
