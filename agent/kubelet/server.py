"""The kubelet's own HTTPS server: what the API server asks a node for ``kubectl logs``, ``exec``, ``attach`` and
``port-forward`` (``portforward``).

Paths and WebSocket protocol are upstream's (pkg/kubelet/server), so that the API server only relays. Who connects must
show a certificate signed by the node's CA: being able to exec in any container is being root on the machine.

A WebSocket frame begins with one byte that names its channel: 0 stdin, 1 stdout, 2 stderr, 3 how it ended (a Status
as JSON), 4 the terminal's size (``{"Width":80,"Height":24}``), and in v5 255: this channel is closed (KEP-4006).
Without the last, nobody could say "end of stdin" and still wait for output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from agent.config import Config
from agent.kubelet import portforward
from agent.kubelet.attachment import Attachment
from agent.kubelet.containers import Container, ContainerError, ExecProcess, Runtime
from agent.kubelet.logs import LogOptions, read_log
from agent.web import serve_app

log = logging.getLogger(__name__)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32768
GRACE = 2  # seconds that open streams get when the server ends


class Refused(Exception):
    """The request cannot be served; ``code`` is HTTP's, the message is for the person who asked."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


class ListenError(Exception):
    """The server's address cannot be had; the message says which, why, and what to do."""


class Pods(Protocol):
    """What the server asks of the kubelet's loop."""

    def find(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> Container:
        """The latest attempt at a container, or the one before. Raises Refused."""

    def network(self, namespace: str, pod: str) -> str:
        """The network namespace of a running pod, as a path; ``""`` is the node's own. Raises Refused."""

    def pods(self) -> Sequence[Any]:
        """All pods of this node, as JSON-ready values."""


class _Size(msgspec.Struct, rename="pascal"):
    width: int = 80
    height: int = 24


@dataclass(frozen=True, slots=True)
class ExecOptions:
    command: tuple[str, ...]
    stdin: bool
    tty: bool


def make_app(pods: Pods, runtime: Runtime, containers: Path) -> Starlette:
    """The application, without TLS. ``containers``: the folder with one folder for each container of ``runtime``."""
    service = _Service(pods, runtime, containers)
    path = "/{namespace}/{pod}/{container}"
    return Starlette(
        routes=[
            Route("/healthz", service.healthz),
            Route("/pods", service.list_pods),
            Route(f"/containerLogs{path}", service.logs),
            WebSocketRoute(f"/exec{path}", service.exec),
            WebSocketRoute(f"/attach{path}", service.attach),
            WebSocketRoute("/portForward/{namespace}/{pod}", service.port_forward),
        ]
    )


async def serve(config: Config, app: Starlette, *, ready: Callable[[], None]) -> None:
    """Serve on the node's address until cancelled. Raises ListenError where the address cannot be had."""
    listener = _listen(config.node_ip, config.kubelet_port)
    pki = config.paths.pki
    await serve_app(
        app,
        [listener],
        ready=ready,
        grace=GRACE,
        ws="websockets-sansio",
        ssl_keyfile=pki / "kubelet.key",
        ssl_certfile=pki / "kubelet.crt",
        ssl_ca_certs=str(pki / "ca.crt"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}; is another kubelet there? "
            "Set kubelet_port in the configuration"
        ) from error


class _Service:
    def __init__(self, pods: Pods, runtime: Runtime, containers: Path) -> None:
        self._pods, self._runtime, self._containers = pods, runtime, containers

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def list_pods(self, request: Request) -> Response:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(self._pods.pods())}
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def logs(self, request: Request) -> Response:
        try:
            options = parse_log_options(request.query_params)
            previous = _flag(request.query_params, "previous")
            container = self._pods.find(**request.path_params, previous=previous)
        except Refused as refusal:
            return PlainTextResponse(refusal.message, status_code=refusal.code)
        return StreamingResponse(self._read(container, options), media_type="text/plain")

    async def _read(self, container: Container, options: LogOptions) -> AsyncIterator[bytes]:
        async for data in read_log(container.log_path, options, ended=partial(self._runtime.wait, container.id)):
            yield data

    async def exec(self, websocket: WebSocket) -> None:
        try:
            container = self._find_running(websocket)
            options = parse_exec_options(websocket.query_params.multi_items())
            process = await self._runtime.exec(container.id, options.command, tty=options.tty, stdin=options.stdin)
        except Refused as refusal:
            await _refuse(websocket, refusal)
            return
        except ContainerError as error:
            await _refuse(websocket, Refused(500, str(error)))
            return
        await Session(websocket, process).run()

    async def attach(self, websocket: WebSocket) -> None:
        flags = websocket.query_params
        try:
            container = self._find_running(websocket)
            stdin = _flag(flags, "input") or _flag(flags, "stdin")
            attachment = await Attachment.open(self._containers / container.id, container, stdin=stdin)
        except Refused as refusal:
            await _refuse(websocket, refusal)
            return
        except ContainerError as error:
            await _refuse(websocket, Refused(500, str(error)))
            return
        await Session(websocket, attachment).run()

    async def port_forward(self, websocket: WebSocket) -> None:
        try:
            netns = self._pods.network(**websocket.path_params)
        except Refused as refusal:
            await _refuse(websocket, refusal)
            return
        await portforward.Session(websocket, partial(portforward.connect_inside, netns)).run()

    def _find_running(self, websocket: WebSocket) -> Container:
        container = self._pods.find(**websocket.path_params)
        if container.state != "running":
            raise Refused(500, f"container not running ({container.container})")
        return container


class Session:
    """One exec or attachment over one WebSocket: frames to stdin, output to frames, and at the end how it ended."""

    def __init__(self, websocket: WebSocket, process: ExecProcess | Attachment) -> None:
        self._websocket, self._process = websocket, process
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Until the command has ended, or the client has gone; then the command is killed."""
        input_ = output = None
        try:
            await self._websocket.accept(subprotocol=choose_protocol(self._websocket.scope["subprotocols"]))
            input_ = asyncio.create_task(self._take_frames())
            output = asyncio.create_task(self._finish())
            await asyncio.wait({input_, output}, return_when=asyncio.FIRST_COMPLETED)
            if output.done() and output.exception() is None:
                await self._websocket.close()
        finally:
            tasks = [task for task in (input_, output) if task is not None]
            finished = output is not None and output.done() and not output.cancelled() and output.exception() is None
            for task in tasks:
                task.cancel()
            for problem in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(problem, Exception) and not isinstance(problem, WebSocketDisconnect):
                    log.warning("exec: %s", problem)
            if not finished:
                await self._process.kill()

    async def _finish(self) -> None:
        """All output, then the exit code."""
        readers: list[tuple[int, Any]] = [(STDOUT, self._process.stdout)]
        if self._process.stderr is not None:
            readers.append((STDERR, self._process.stderr))
        copies = [asyncio.create_task(self._copy(*reader)) for reader in readers]
        try:
            code = await self._process.wait()
            await asyncio.gather(*copies)
        finally:
            for copy in copies:
                copy.cancel()
        await self._send(ERROR, msgspec.json.encode(exit_status(code)))

    async def _copy(self, channel: int, reader: Any) -> None:
        while data := await reader.read(CHUNK):
            await self._send(channel, data)

    async def _send(self, channel: int, data: bytes) -> None:
        async with self._sending:
            await self._websocket.send_bytes(bytes([channel]) + data)

    async def _take_frames(self) -> None:
        """Until the client goes."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            frame = message.get("bytes") or (message.get("text") or "").encode()
            if frame:
                await self._take(frame[0], frame[1:])

    async def _take(self, channel: int, data: bytes) -> None:
        stdin = self._process.stdin
        if channel == RESIZE:
            size = msgspec.json.decode(data, type=_Size)
            self._process.resize(size.width, size.height)
        elif channel == STDIN and stdin is not None and data:
            await stdin.write(data)
        elif channel == CLOSE and data == bytes([STDIN]) and stdin is not None:
            stdin.close()


def exit_status(code: int) -> dict[str, Any]:
    """The Status that ends an exec; kubectl takes the exit code from its cause."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def choose_protocol(offered: Sequence[str]) -> str | None:
    """The newest that both sides know. Raises Refused."""
    return next((protocol for protocol in PROTOCOLS if protocol in offered), None)


def parse_log_options(query: Mapping[str, str]) -> LogOptions:
    """PodLogOptions from a query. Raises Refused."""
    since_seconds, since_time = _number(query, "sinceSeconds"), query.get("sinceTime")
    since = None
    if since_seconds is not None:
        since = datetime.now().timestamp() - since_seconds
    elif since_time:
        try:
            since = datetime.fromisoformat(since_time).timestamp()
        except ValueError as error:
            raise Refused(400, f"sinceTime: {since_time!r} is not an RFC 3339 time") from error
    return LogOptions(
        follow=_flag(query, "follow"),
        timestamps=_flag(query, "timestamps"),
        tail=_number(query, "tailLines"),
        since=since,
        limit=_number(query, "limitBytes"),
    )


def parse_exec_options(query: Sequence[tuple[str, str]]) -> ExecOptions:
    """PodExecOptions as the kubelet's query has them. Raises Refused."""
    flags = dict(query)
    command = tuple(value for name, value in query if name == "command")
    if not command:
        raise Refused(400, "you must specify at least one command to exec")
    return ExecOptions(command, stdin=_flag(flags, "input") or _flag(flags, "stdin"), tty=_flag(flags, "tty"))


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true", "t")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise Refused(400, f"{name}: {text!r} is not a number of 0 or more")
    return int(text)


async def _refuse(websocket: WebSocket, refusal: Refused) -> None:
    """Answer the handshake with an HTTP error."""
    await websocket.send_denial_response(PlainTextResponse(refusal.message, status_code=refusal.code))
