"""The stand-ins as their clients see them: real processes, real sockets, on the loopback interface."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.images import STANDINS
from agent.kubelet.standins import wire


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(name: str, *argv: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A stand-in that has said its last line before listening is over."""
    command = [sys.executable, "-S", "-E", "-s", "-B", str(STANDINS), name, *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@dataclass
class Answer:
    status: int
    body: str
    server: str


def request(port: int, path: str, *, method: str = "GET") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), response.headers["Server"])


# --- echo -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo() -> Iterator[dict[str, int]]:
    ports = {kind: free_port() for kind in ("http", "udp", "tcp")}
    with running("echo", *(word for kind, port in ports.items() for word in (f"--{kind}-port", str(port)))):
        yield ports


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/hostname", 200, socket.gethostname()),
        ("/", 200, socket.gethostname()),
        ("/echo?msg=a%20b+c%C3%A9", 200, "a b cé"),
        ("/echo?msg=100%zz", 200, "100%zz"),
        ("/healthz", 200, "ok\n"),
        ("/slow?ms=1", 200, socket.gethostname()),
        ("/fail?code=418", 418, f"failing as asked, {socket.gethostname()}\n"),
        ("/nowhere", 404, "podwire-echo: no /nowhere\n"),
    ],
)
def test_echo_over_http(echo: dict[str, int], path: str, status: int, body: str) -> None:
    assert request(echo["http"], path) == Answer(status, body, "podwire-echo")


def test_echo_tells_who_asked(echo: dict[str, int]) -> None:
    assert request(echo["http"], "/clientip").body.startswith("127.0.0.1:")


def test_health_can_be_turned_off_and_on(echo: dict[str, int]) -> None:
    request(echo["http"], "/unhealthy")
    assert request(echo["http"], "/healthz").status == 503
    request(echo["http"], "/healthy")
    assert request(echo["http"], "/healthz").status == 200


def test_one_connection_can_carry_several_requests(echo: dict[str, int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", echo["http"], timeout=30)
    with contextlib.closing(connection):
        ports = []
        for _ in range(2):
            connection.request("GET", "/clientip")
            ports.append(connection.getresponse().read())
    assert ports[0] == ports[1]


def test_a_handlers_failure_is_500_and_the_server_goes_on(echo: dict[str, int]) -> None:
    assert request(echo["http"], "/slow?ms=soon").status == 500
    assert request(echo["http"], "/hostname").status == 200


def test_nonsense_is_not_answered(echo: dict[str, int]) -> None:
    with socket.create_connection(("127.0.0.1", echo["http"]), timeout=30) as connection:
        connection.sendall(b"\r\n\r\n")
        assert connection.recv(100) == b""


def test_echo_over_udp(echo: dict[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(("127.0.0.1", echo["udp"]))
        answers = {}
        for question in ("hostname", "clientip", "echo x y", "what"):
            client.send(question.encode())
            answers[question] = client.recv(1000).decode()
        own = f"127.0.0.1:{client.getsockname()[1]}"
    assert answers == {"hostname": socket.gethostname(), "clientip": own, "echo x y": "x y", "what": ""}


def test_echo_over_tcp(echo: dict[str, int]) -> None:
    with socket.create_connection(("127.0.0.1", echo["tcp"]), timeout=30) as client, client.makefile("rwb") as stream:
        stream.write(b"one\n")
        stream.flush()
        assert stream.readline() == b"one\n"


def test_exit_answers_first() -> None:
    port = free_port()
    with running("echo", f"--http-port={port}", "--udp-port=0") as process:
        assert request(port, "/exit?code=7").status == 200
        assert process.wait(30) == 7


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--port", "1"), "unknown option --port"),
        (("--http-port",), "needs a value"),
        (("--http-port", "x"), "expected port numbers"),
    ],
)
def test_bad_options_are_explained(argv: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-S", "-E", "-s", "-B", str(STANDINS), "echo", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_stand_in_well(number: signal.Signals) -> None:
    with running("echo", "--http-port=0", "--udp-port=0") as process:
        process.send_signal(number)
        assert process.wait(30) == 0


def test_a_stand_in_that_was_stopped_ends_well_too() -> None:
    """As at a machine's shutdown: everything is stopped, told to end, and continued."""
    with running("echo", f"--http-port={free_port()}", "--udp-port=0") as process:
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(30) == 0


# --- mongo and go-demo-2 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mongo() -> Iterator[int]:
    """Its port; the page is 1,000 above."""
    port = next(p for p in iter(free_port, None) if p < 60000)
    with running("mongo", "--rest", "--httpinterface", "--port", str(port)) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the page's line
        yield port


def ask(port: int, command: dict[str, Any]) -> dict[str, Any]:
    return wire.ask("127.0.0.1", port, command, timeout=30)


def test_mongo_has_a_page_that_says_what_it_is(mongo: int) -> None:
    page = request(mongo + 1000, "/")
    assert page.status == 200
    assert f"mongod {socket.gethostname()}" in page.body
    assert "not MongoDB" in page.body
    assert "stand-in" in page.server


def test_mongo_answers_what_drivers_ask_first(mongo: int) -> None:
    assert ask(mongo, {"hello": 1})["isWritablePrimary"] is True
    assert ask(mongo, {"isMaster": 1})["ismaster"] is True
    assert ask(mongo, {"ping": 1}) == {"ok": 1.0}
    assert ask(mongo, {"buildInfo": 1})["version"] == "3.3.0"


def test_mongo_answers_old_drivers_in_their_own_format(mongo: int) -> None:
    query = b"\0\0\0\0admin.$cmd\0" + b"\0\0\0\0" + b"\xff\xff\xff\xff" + wire.encode({"isMaster": 1})
    head = (len(query) + 16).to_bytes(4, "little") + b"\7\0\0\0" + bytes(4) + wire.OP_QUERY.to_bytes(4, "little")
    with socket.create_connection(("127.0.0.1", mongo), timeout=30) as connection:
        connection.sendall(head + query)
        reply = connection.recv(65536)
    assert int.from_bytes(reply[8:12], "little") == 7
    assert int.from_bytes(reply[12:16], "little") == wire.OP_REPLY
    assert wire.decode(reply[36:])["ismaster"] is True


def test_mongo_keeps_documents(mongo: int) -> None:
    def stored(**wanted: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(mongo, {"find": "things", "filter": wanted})["cursor"]["firstBatch"]
        return found

    assert ask(mongo, {"insert": "things", "documents": [{"_id": "a", "n": 1}, {"_id": "b", "n": 1}]})["n"] == 2
    ask(mongo, {"update": "things", "updates": [{"q": {"_id": "a"}, "u": {"$set": {"n": 2}}}]})
    ask(mongo, {"update": "things", "updates": [{"q": {"_id": "c"}, "u": {"n": 3}, "upsert": True}]})
    assert stored(_id="a") == [{"_id": "a", "n": 2}]
    assert ask(mongo, {"count": "things"})["n"] == 3
    assert ask(mongo, {"delete": "things", "deletes": [{"q": {"_id": "b"}, "limit": 1}]})["n"] == 1
    assert [thing["_id"] for thing in stored()] == ["a", "c"]


def test_mongo_refuses_the_rest_by_name(mongo: int) -> None:
    refused = ask(mongo, {"mapReduce": "things"})
    assert refused["ok"] == 0.0
    assert refused["code"] == 59
    assert "mapReduce" in refused["errmsg"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\x7f" + bytes(12), bytes(16)])
def test_mongo_hangs_up_on_nonsense_and_goes_on(mongo: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", mongo), timeout=30) as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert ask(mongo, {"ping": 1})["ok"] == 1.0


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(min_size=12, max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(documents)
def test_bson_reads_what_it_writes(value: Any) -> None:
    assert wire.decode(wire.encode({"value": value})) == {"value": value}


@given(st.binary(max_size=60))
def test_bson_refuses_nonsense_in_one_way(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        assert isinstance(wire.decode(data), dict)
