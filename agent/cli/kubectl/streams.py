"""``exec`` and ``attach``: a container's standard streams over one WebSocket (subprotocol ``v5.channel.k8s.io``).

Each message starts with a byte that names its channel: 0 standard input, 1 output, 2 error, 3 the final Status, 4 the
terminal's size, 255 (new in v5) the end of a channel. Standard input is pumped by a thread, because reading a terminal
blocks; everything else happens in the caller's thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from agent.cli.kubectl.errors import ApiError, KubectlError

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster
    from agent.cli.kubectl.websocket import BlockingWebSocket

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHUNK = 32 * 1024
PATIENCE = 30.0  # seconds until a server that does not answer counts as out of reach


def run_stream(
    cluster: Cluster, path: str, params: Sequence[tuple[str, str]], *, stdin: bool, tty: bool, quiet: bool = False
) -> int:
    """Join this terminal to a container until it ends; its exit code. Raises KubectlError where that fails."""
    with _connect(cluster, path, params) as socket, contextlib.ExitStack() as stack:
        if tty and sys.stdin.isatty():
            stack.enter_context(_raw_terminal())
            stack.enter_context(_resizing(socket))
        if stdin:
            stack.enter_context(_pumping_stdin(socket))
        status = _receive(socket)
    return exit_code(status, quiet=quiet)


def exit_code(status: Mapping[str, Any] | None, *, quiet: bool = False) -> int:
    """The exit code a final Status carries. Raises ApiError for a Status that is about something else."""
    if status is None or status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or []
    code = next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), None)
    if code is None:
        raise ApiError(status)
    if not quiet:
        print(f"command terminated with exit code {code}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _connect(cluster: Cluster, path: str, params: Sequence[tuple[str, str]]) -> Iterator[BlockingWebSocket]:
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.typing import Subprotocol

    from agent.cli.kubectl.websocket import open_websocket

    scheme, host, base, _, _ = urlsplit(cluster.server)
    secure = scheme == "https"
    url = urlunsplit(("wss" if secure else "ws", host, base.rstrip("/") + path, urlencode(params), ""))
    stack = contextlib.ExitStack()
    try:
        socket = stack.enter_context(
            open_websocket(
                url,
                ssl=cluster.tls if secure else None,
                additional_headers=cluster.credentials,
                subprotocols=[Subprotocol(PROTOCOL)],
                compression=None,
                max_size=None,
                proxy=None,
                open_timeout=PATIENCE,
            )
        )
    except InvalidStatus as error:
        raise _refused(error.response.status_code, bytes(error.response.body or b"")) from error
    except (OSError, WebSocketException) as error:
        raise KubectlError(f"error: cannot open a stream to {cluster.server}{path}: {error}") from error
    with stack:
        yield socket


def _refused(code: int, body: bytes) -> KubectlError:
    """The server's Status, where its refusal has one."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return ApiError(status)
    return ApiError({"message": f"unable to upgrade connection: HTTP {code}: {body.decode(errors='replace').strip()}"})


def _receive(socket: BlockingWebSocket) -> Mapping[str, Any] | None:
    """Copy output until the final Status; None where the connection ended without one after a normal close."""
    from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

    while True:
        try:
            message = socket.recv()
        except ConnectionClosedOK:
            return None
        except ConnectionClosedError as error:
            raise KubectlError(f"error: lost the connection to the container: {error}") from error
        data = message.encode() if isinstance(message, str) else message
        channel, payload = data[0], data[1:]
        if channel == ERROR and payload:
            status: Mapping[str, Any] = json.loads(payload)
            return status
        if channel in (STDOUT, STDERR) and payload:
            _write(sys.stdout if channel == STDOUT else sys.stderr, payload)


def _write(stream: Any, payload: bytes) -> None:
    stream.flush()
    stream.buffer.write(payload)
    stream.buffer.flush()


@contextlib.contextmanager
def _pumping_stdin(socket: BlockingWebSocket) -> Iterator[None]:
    """Send what is typed or piped in, from a thread that a pipe wakes when the stream is over."""
    wake_read, wake_write = os.pipe()
    thread = threading.Thread(target=_pump, args=(socket, sys.stdin.fileno(), wake_read), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(wake_write)
        socket.close()  # the thread may be waiting for a container that does not read
        thread.join()
        os.close(wake_read)


def _pump(socket: BlockingWebSocket, source: int, wake: int) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed):  # the command may end before its input does
        while True:
            ready, _, _ = select.select([source, wake], [], [])
            if wake in ready:
                return
            data = os.read(source, CHUNK)
            if not data:
                socket.send(bytes([CLOSE, STDIN]))
                return
            socket.send(bytes([STDIN]) + data)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the container, Ctrl-C included; the terminal is put back as it was whatever happens."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizing(socket: BlockingWebSocket) -> Iterator[None]:
    """Tell the container the terminal's size, now and whenever it changes."""

    def announce() -> None:
        from websockets.exceptions import ConnectionClosed

        size = shutil.get_terminal_size()
        with contextlib.suppress(ConnectionClosed):  # nobody is left to care about the size
            socket.send(bytes([RESIZE]) + json.dumps({"Width": size.columns, "Height": size.lines}).encode())

    def resized(*_: Any) -> None:
        # Not from the handler itself: it may have interrupted this thread while it held a lock of the event loop's.
        announcing.append(threading.Thread(target=announce))
        announcing[-1].start()

    announcing: list[threading.Thread] = []
    before = signal.signal(signal.SIGWINCH, resized)
    announce()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
        socket.close()  # those that still announce are woken
        for thread in announcing:
            thread.join()
