"""The blocking WebSocket over real TLS on the loopback: a server that echoes, and one that never answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.server import ServerConnection, serve

from agent.cli.kubectl.websocket import BlockingWebSocket, open_websocket
from agent.config import Config, Paths
from agent.pki import ensure_pki


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    config = Config(state_dir=tmp_path, node_name="n", node_ip="127.0.0.1")
    ensure_pki(config, loopback_port=6443)
    return Paths(tmp_path).pki


def serving(pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    return context


def trusting(pki: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pki / "ca.crt"))


@contextlib.contextmanager
def mute_server(pki: Path) -> Iterator[int]:
    """Its port. It shakes hands, by which the client gets session tickets, and then says nothing more."""
    kept: list[ssl.SSLSocket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(serving(pki).wrap_socket(listener.accept()[0], server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


@contextlib.contextmanager
def echo_server(pki: Path) -> Iterator[int]:
    hearing = threading.Event()

    def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in connection:
                if message == b"bye":
                    return
                if message == b"deaf":
                    hearing.wait(20)
                for _ in range(1000 if message == b"flood" else 1):
                    connection.send(message[:5] * 10000)

    with serve(echo, "127.0.0.1", 0, ssl=serving(pki)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        hearing.set()
        server.shutdown()
        thread.join()


def test_a_server_that_never_answers_is_given_up(pki: Path) -> None:
    begin = time.monotonic()
    with mute_server(pki) as port, pytest.raises(TimeoutError):
        open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki), open_timeout=0.5).__enter__()
    assert time.monotonic() - begin < 10


def test_one_thread_may_send_while_another_waits(pki: Path) -> None:
    with echo_server(pki) as port, open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki)) as stream:
        timer = threading.Timer(0.1, stream.send, [b"hello"])
        timer.start()
        assert stream.recv() == b"hello" * 10000
        timer.join()
        stream.send(b"bye")
        with pytest.raises(ConnectionClosedOK):
            stream.recv()


def send_for_ever(stream: BlockingWebSocket) -> None:
    while True:
        stream.send(bytes(1 << 20))


def test_who_waits_for_a_server_that_does_not_read_is_woken_by_the_close(pki: Path) -> None:
    begin = time.monotonic()
    with echo_server(pki) as port, open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki)) as stream:
        stream.send(b"deaf")
        timer = threading.Timer(0.5, stream.close)
        timer.start()
        with pytest.raises(ConnectionClosed):
            send_for_ever(stream)
        timer.join()
    assert time.monotonic() - begin < 10


def test_output_that_nobody_reads_does_not_delay_the_end(pki: Path) -> None:
    with echo_server(pki) as port:
        with open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki)) as stream:
            stream.send(b"flood")
            stream.recv()
            begin = time.monotonic()
        assert time.monotonic() - begin < 5


def test_an_interrupted_connect_leaves_nothing(pki: Path) -> None:
    """Ctrl-C while a server does not answer."""
    threads = threading.active_count()
    with mute_server(pki) as port:
        timer = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki), open_timeout=60).__enter__()
        timer.join()
    assert threading.active_count() == threads


def test_nothing_is_left_of_it(pki: Path) -> None:
    threads = threading.active_count()
    with echo_server(pki) as port:
        for _ in range(3):
            with open_websocket(f"wss://127.0.0.1:{port}/", ssl=trusting(pki)) as stream:
                stream.send(b"x")
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        open_websocket("ws://127.0.0.1:1/").__enter__()
    assert threading.active_count() == threads
