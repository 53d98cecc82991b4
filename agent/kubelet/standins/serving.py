"""A small HTTP/1.1 server and process manners for the stand-ins. Standard library only, and little of it.

The stand-ins must start in milliseconds, many at a time, so this avoids ``http.server`` and ``asyncio`` (each takes
longer to import than the whole of this takes to start). They are the first process of a container (PID 1), for which
the kernel ignores every signal that is not handled (pid_namespaces(7)), and which inherits other people's orphans.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable

POD = socket.gethostname()
MAX_HEAD, MAX_BODY = 64 << 10, 4 << 20
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request:
    """A plain class, as everything here: ``typing`` and ``dataclasses`` would double the time it takes to start."""

    def __init__(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes,
        client: tuple[str, int],
    ) -> None:
        self.method, self.path, self.query = method, path, query
        self.headers, self.body, self.client = headers, body, client


class Response:
    def __init__(self, body: str = "", status: int = 200, kind: str = "text/plain; charset=utf-8") -> None:
        self.body, self.status, self.kind = body, status, kind


Handler = Callable[[Request], Response]


ENDING = (signal.SIGTERM, signal.SIGINT)


def mind_signals() -> None:
    """Before any thread is started: SIGTERM and SIGINT are kept for ``wait_for_end``; the kernel reaps orphans.

    A handler would not do: Python runs it in the main thread, but the kernel may give the signal to another thread, and
    does if the process was stopped when it came (as systemd stops everything when a machine shuts down).
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def say(text: str) -> None:
    """A line to the container's log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def listen(port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket on every address, IPv4 and (where the kernel has it) IPv6."""
    try:
        listener = socket.socket(socket.AF_INET6, kind)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address = "::"
    except OSError:
        listener, address = socket.socket(socket.AF_INET, kind), "0.0.0.0"
    if kind == socket.SOCK_STREAM:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    if kind == socket.SOCK_STREAM:
        listener.listen(512)
    return listener


def serve_connections(port: int, talk: Callable[[socket.socket, tuple[str, int]], None]) -> None:
    """Listen on ``port`` now, and from a thread give each connection a thread that runs ``talk``."""
    listener = listen(port)

    def converse(connection: socket.socket, client: tuple[str, int]) -> None:
        with connection:
            try:
                talk(connection, client)
            except (ConnectionError, TimeoutError):
                return  # the client went away
            except Exception as error:  # noqa: BLE001 - one bad conversation must not end the others
                say(f"{client[0]}:{client[1]}: {error!r}")

    def accept() -> None:
        while True:
            connection, peer = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = (plain(peer[0]), int(peer[1]))
            threading.Thread(target=converse, args=(connection, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve_http(port: int, handler: Handler, *, server: str) -> None:
    """Answer HTTP requests on ``port``; ``server`` is the Server header: who is really answering."""

    def talk(connection: socket.socket, client: tuple[str, int]) -> None:
        with connection.makefile("rb") as stream:
            while True:
                request = _read_request(stream.readline, stream.read, client)
                if request is None:
                    return
                keep = request.headers.get("connection", "").lower() != "close"
                connection.sendall(_render(_answer(handler, request), request, server=server, keep=keep))
                if not keep:
                    return

    serve_connections(port, talk)


def wait_for_end() -> None:
    """End at once on SIGTERM and SIGINT."""
    signal.sigwait(ENDING)
    os._exit(0)


def plain(address: str) -> str:
    """An IPv4 address as such, even if it came through an IPv6 socket."""
    return address.removeprefix("::ffff:")


def unquote(text: str) -> str:
    """Percent-decoding, with + for a blank."""
    head, *rest = text.replace("+", " ").encode().split(b"%")
    out = [head]
    for part in rest:
        try:
            out.append(bytes([int(part[:2], 16)]) + part[2:])
        except ValueError:
            out.append(b"%" + part)
    return b"".join(out).decode(errors="replace")


def _answer(handler: Handler, request: Request) -> Response:
    try:
        return handler(request)
    except Exception as error:  # noqa: BLE001 - a server answers 500 and goes on
        say(f"{request.method} {request.path}: {error!r}")
        return Response(f"{error!r}\n", 500)


def _read_request(
    readline: Callable[[int], bytes], read: Callable[[int], bytes], client: tuple[str, int]
) -> Request | None:
    first = readline(MAX_HEAD).decode("latin-1").split()
    if len(first) != 3:
        return None
    headers = _read_headers(readline)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY:
        return None
    path, _, query = first[1].partition("?")
    pairs: Iterable[tuple[str, str, str]] = (part.partition("=") for part in query.split("&") if part)
    values = {unquote(name): unquote(value) for name, _, value in pairs}
    return Request(first[0], unquote(path), values, headers, read(int(length)), client)


def _read_headers(readline: Callable[[int], bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    while len(headers) < 200:
        line = readline(MAX_HEAD).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def _render(response: Response, request: Request, *, server: str, keep: bool) -> bytes:
    body = response.body.encode()
    head = (
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Status')}\r\nServer: {server}\r\n"
        f"X-Pod: {POD}\r\n"  # who of many answered: what a person wants to see of a Service
        f"Content-Type: {response.kind}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + (b"" if request.method == "HEAD" else body)
