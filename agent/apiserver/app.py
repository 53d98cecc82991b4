"""The HTTP side: an ASGI application that reads requests, asks the verbs, and sends what they say.

Three kinds of answers: documents (most), streams (watches and followed logs), and relays (``exec``, ``attach`` and
``portforward``: WebSockets). A stream or relay ends when its client goes or the server stops, whichever comes first:
``stopping`` is set at the beginning of the end, so that nobody has to wait for a watch to run out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import prometheus_client
import yaml
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from agent.apiserver import discovery, openapi, streams
from agent.apiserver.api import Api
from agent.apiserver.auth import check_token
from agent.apiserver.body import LIMIT
from agent.apiserver.paths import Target, parse_path
from agent.apiserver.query import Query
from agent.apiserver.rest import Answer, Request, Stream, handler_of, verb_of
from agent.apiserver.status import StatusError, internal_error, no_such_path, too_large, unavailable
from agent.store import StoreError

log = logging.getLogger(__name__)

PIECE = 1 << 16  # bytes sent at once
JSON_TYPE = "application/json"
HEALTH_PATHS = ("/healthz", "/livez", "/readyz")

REQUESTS = prometheus_client.Counter(
    "apiserver_request_total", "Requests by verb, resource and code.", ["verb", "resource", "code"]
)
SECONDS = prometheus_client.Histogram(
    "apiserver_request_duration_seconds", "Time to answer, streams left out.", ["verb", "resource"]
)
STREAMS = prometheus_client.Gauge("apiserver_longrunning_requests", "Watches, logs and exec sessions.", ["verb"])


class App:
    """The application. ``stopping`` is set when the server is about to end."""

    def __init__(self, api: Api, kubelets: streams.Kubelets, token: str) -> None:
        self._api, self._kubelets, self._token = api, kubelets, token
        self._documents: dict[str, bytes] = {}
        self.stopping = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _Socket(self, scope, receive, send).serve()
        else:
            await _Exchange(self, scope, receive, send).serve()

    @property
    def api(self) -> Api:
        return self._api

    @property
    def kubelets(self) -> streams.Kubelets:
        return self._kubelets

    def check(self, path: str, headers: dict[str, str]) -> None:
        check_token(path, headers, self._token)

    def document(self, path: str, accept: str) -> tuple[bytes, str] | None:
        """What is not about objects: health, version, discovery, OpenAPI, metrics. With its media type."""
        trimmed = path.rstrip("/")
        if trimmed in HEALTH_PATHS:
            return b"ok", "text/plain"
        if trimmed == "/metrics":
            return prometheus_client.generate_latest(), prometheus_client.CONTENT_TYPE_LATEST
        if trimmed == "/version":
            return msgspec.json.encode(discovery.version()), JSON_TYPE
        if trimmed == "/openapi/v2":
            return openapi.OPENAPI_V2, openapi.OPENAPI_V2_TYPE
        if trimmed.startswith("/openapi/v3"):
            return self._openapi(trimmed)
        found = discovery.discovery(trimmed, accept)
        return None if found is None else (msgspec.json.encode(found), discovery.content_type(trimmed, accept))

    def _openapi(self, path: str) -> tuple[bytes, str] | None:
        if path not in self._documents:
            found = openapi.openapi_v3(path)
            if found is None:
                return None
            self._documents[path] = msgspec.json.encode(found)
        return self._documents[path], JSON_TYPE


class _Exchange:
    """One HTTP request and its answer."""

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._receive, self._send = app, receive, send
        self._path, self._method = scope["path"], scope["method"]
        self._headers = _headers(scope)
        self._query = _query(scope)
        self._started = False
        self._code = 0

    async def serve(self) -> None:
        began = time.monotonic()
        target = parse_path(self._path)
        verb, resource = self._method.lower(), target.kind.resource if target else ""
        try:
            self._app.check(self._path, self._headers)
            if target is None:
                await self._send_document()
            else:
                verb = verb_of(self._method, target, self._query)
                await self._serve_target(target, verb)
        except StatusError as error:
            await self._send_error(error)
        except StoreError as error:
            log.error("%s %s: %s", self._method, self._path, error)
            await self._send_error(internal_error(str(error)))
        except Exception as error:
            log.exception("%s %s", self._method, self._path)
            await self._send_error(internal_error(f"{type(error).__name__}: {error}"))
        REQUESTS.labels(verb, resource, str(self._code)).inc()
        if verb != "watch":
            SECONDS.labels(verb, resource).observe(time.monotonic() - began)

    async def _send_document(self) -> None:
        found = self._app.document(self._path, self._headers.get("accept", "")) if self._method == "GET" else None
        if found is None:
            raise no_such_path()
        body, media_type = found
        await self._send_parts([body], 200, media_type)

    async def _serve_target(self, target: Target, verb: str) -> None:
        if (verb, target.subresource) == ("get", "log"):
            await self._serve_log(target)
            return
        handler = handler_of(verb, target)
        content = await self._read_body()
        request = Request(self._method, target, self._query, self._headers, content)
        _ = request.form  # what cannot be answered is refused before anything is done
        result = await handler(self._app.api, request)
        if isinstance(result, Stream):
            await self._send_stream(result.lines, JSON_TYPE, "watch")
        else:
            await self._send_answer(result)

    async def _serve_log(self, target: Target) -> None:
        place = await streams.find_place(self._app.api, target, self._query)
        if place is None:
            await self._send_parts([b""], 200, "text/plain")
            return
        async with streams.open_log(self._app.kubelets, place, self._query) as lines:
            await self._send_stream(lines, "text/plain", "log")

    async def _read_body(self) -> bytes:
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise unavailable("the client went away before its request was complete")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > LIMIT:
                raise too_large(LIMIT)
        return bytes(body)

    async def _send_answer(self, answer: Answer) -> None:
        parts, media_type = answer.parts, answer.media_type
        if media_type == "application/yaml":
            parts = [yaml.safe_dump(msgspec.json.decode(b"".join(parts)), sort_keys=False).encode()]
        elif self._query.flag("pretty"):
            parts = [msgspec.json.format(b"".join(parts), indent=2), b"\n"]
        warnings = [(b"warning", _warning(text)) for text in answer.warnings]
        await self._send_parts(parts, answer.code, media_type, headers=warnings)

    async def _send_error(self, error: StatusError) -> None:
        if self._started:
            return  # too late to say so; the answer ends here and is seen to be incomplete
        headers = [(b"retry-after", str(error.retry_after).encode())] if error.retry_after else []
        if error.code == 401:
            headers.append((b"www-authenticate", b'Bearer realm="podwire"'))
        await self._send_parts([msgspec.json.encode(error.status())], error.code, JSON_TYPE, headers=headers)

    async def _send_parts(
        self, parts: list[bytes], code: int, media_type: str, *, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        length = (b"content-length", str(sum(map(len, parts))).encode())
        await self._start(code, media_type, [length, *headers])
        for piece in _pieces(parts):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._finish()

    async def _send_stream(self, chunks: AsyncGenerator[bytes, None], media_type: str, verb: str) -> None:
        await self._start(200, media_type, [])
        with STREAMS.labels(verb).track_inprogress():
            await until_first(self._pump(chunks), self._gone(), self._app.stopping.wait())
        await self._finish()

    async def _pump(self, chunks: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk:
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _gone(self) -> None:
        """Until the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def _start(self, code: int, media_type: str, headers: list[tuple[bytes, bytes]]) -> None:
        self._started, self._code = True, code
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-cache, private"), *headers]
        await self._send({"type": "http.response.start", "status": code, "headers": headers})

    async def _finish(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Socket:
    """One WebSocket: exec, attach or port-forward."""

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._client = WebSocket(scope, receive, send)
        self._path, self._headers, self._query = scope["path"], _headers(scope), _query(scope)

    async def serve(self) -> None:
        try:
            self._app.check(self._path, self._headers)
            target = parse_path(self._path)
            if target is None or target.subresource not in streams.PROTOCOLS:
                raise no_such_path()
            await self._relay(target)
        except StatusError as error:
            await self._refuse(error)
        except StoreError as error:
            log.error("%s: %s", self._path, error)
            await self._refuse(internal_error(str(error)))

    async def _relay(self, target: Target) -> None:
        place = await streams.find_way(self._app.api, target, self._query)
        relay = streams.relay(self._app.kubelets, place, target.subresource, self._query, self._client)
        with STREAMS.labels(target.subresource).track_inprogress():
            await until_first(relay, self._app.stopping.wait())

    async def _refuse(self, error: StatusError) -> None:
        body = msgspec.json.encode(error.status())
        await self._client.send_denial_response(Response(body, status_code=error.code, media_type=JSON_TYPE))


async def until_first(*work: Coroutine[Any, Any, Any]) -> None:
    """Run all until one ends; then the others are cancelled. Raises what it raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _pieces(parts: list[bytes]) -> Iterable[bytes]:
    """The parts, put together or cut so that each piece is worth a write and none holds up the others."""
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= PIECE:
            yield from _cut(b"".join(gathered))
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def _cut(data: bytes) -> Iterable[bytes]:
    for start in range(0, len(data), 4 * PIECE):
        yield data[start : start + 4 * PIECE]


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _query(scope: Scope) -> Query:
    return Query(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _warning(text: str) -> bytes:
    """RFC 7234, 5.5: code 299, nobody in particular, a quoted text."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'.encode()
