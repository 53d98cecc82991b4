"""The kubelet's server: TLS, logs and exec, over real sockets on loopback and with real containers."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from agent.config import Config
from agent.kubelet.commands import run_command, run_handler
from agent.kubelet.containers import Container, Launch
from agent.kubelet.images import DEFAULT_PATH, HostRoot, Image
from agent.kubelet.loop import containers_folder, make_runtime
from agent.kubelet.probes import Checker
from agent.kubelet.server import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, Refused, make_app, serve
from agent.kubelet.spdy import Data, Decoder, Encoder, Frame, Ping, render_data, render_ping, render_reset
from agent.kubelet.spec import ContainerSpec, ExecAction, Handler, HttpGet, SleepAction
from agent.pki import ensure_pki

FOREVER = "trap 'exit 0' TERM; echo started; while :; do sleep 3600 & wait; done"


@dataclass
class Known:
    """The pods that the server may speak of: one running container, and one that has died."""

    running: Container
    dead: Container

    def find(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> Container:
        if (namespace, pod) != ("shop", "p"):
            raise Refused(404, f'pods "{pod}" not found on this node')
        if container == "dead" or previous:
            return self.dead
        return self.running

    def network(self, namespace: str, pod: str) -> str:
        if (namespace, pod) != ("shop", "p"):
            raise Refused(404, f'pods "{pod}" not found on this node')
        return ""

    def pods(self) -> Sequence[Any]:
        return [{"metadata": {"name": "p"}}]


@dataclass
class Bench:
    config: Config
    known: Known
    client: ssl.SSLContext

    @property
    def address(self) -> str:
        return f"{self.config.node_ip}:{self.config.kubelet_port}"

    async def get(self, path: str, **query: str) -> httpx2.Response:
        async with httpx2.AsyncClient(verify=self.client, trust_env=False) as http:
            return await http.get(f"https://{self.address}{path}", params=query)

    def exec(self, query: str, *, path: str = "/exec/shop/p/c", protocol: str = "v5.channel.k8s.io") -> connect:
        protocols = [Subprotocol(protocol)]
        return connect(f"wss://{self.address}{path}?{query}", ssl=self.client, subprotocols=protocols, proxy=None)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = Config(state_dir=tmp_path, node_name="pwt-server", node_ip="127.0.0.1", kubelet_port=port)
    ensure_pki(config, loopback_port=1)
    runtime = make_runtime(config)
    running = await runtime.start(order(config, "c", 0, FOREVER))
    await runtime.start(order(config, "dead", 0, "echo one; echo two >&2; echo three"))
    dead = await runtime.wait("u-dead-0")
    known = Known(running, dead)
    listening = asyncio.Event()
    server = asyncio.create_task(
        serve(config, make_app(known, runtime, containers_folder(config)), ready=listening.set)
    )
    await listening.wait()
    try:
        yield Bench(config, known, client_context(config))
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        await runtime.clean()


def order(config: Config, name: str, attempt: int, script: str) -> Launch:
    return Launch(
        id=f"u-{name}-{attempt}",
        pod_uid="u",
        namespace="shop",
        pod="p",
        container=name,
        attempt=attempt,
        image=Image("host", HostRoot()),
        argv=("sh", "-c", script),
        log_path=config.paths.pods / f"{name}.log",
        env=(("PATH", DEFAULT_PATH), ("NAME", "value")),
        hostname="p",
    )


def client_context(config: Config, *, name: str | None = "kubelet-client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.paths.pki / "ca.crt"))
    if name is not None:
        context.load_cert_chain(config.paths.pki / f"{name}.crt", config.paths.pki / f"{name}.key")
    return context


async def talk(websocket: ClientConnection) -> tuple[dict[int, bytes], dict[str, Any]]:
    """Everything a command says, by channel, and how it ended."""
    said: dict[int, bytes] = {}
    async for frame in websocket:
        assert isinstance(frame, bytes)
        said[frame[0]] = said.get(frame[0], b"") + frame[1:]
    return said, json.loads(said.pop(ERROR))


async def test_who_shows_no_certificate_is_not_heard(bench: Bench) -> None:
    stranger = replace(bench, client=client_context(bench.config, name=None))
    with pytest.raises(httpx2.HTTPError):
        await stranger.get("/healthz")
    assert (await bench.get("/healthz")).text == "ok"
    assert (await bench.get("/pods")).json()["items"] == [{"metadata": {"name": "p"}}]


async def test_logs(bench: Bench) -> None:
    assert (await bench.get("/containerLogs/shop/p/c")).text == "started\n"
    assert sorted((await bench.get("/containerLogs/shop/p/c", previous="true")).text.split()) == ["one", "three", "two"]
    assert (await bench.get("/containerLogs/shop/p/c", tailLines="0")).text == ""
    assert (await bench.get("/containerLogs/shop/p/c", sinceTime="2100-01-01T00:00:00Z")).text == ""
    assert (await bench.get("/containerLogs/shop/p/c", sinceSeconds="3600", limitBytes="3")).text == "sta"
    assert "T" in (await bench.get("/containerLogs/shop/p/c", timestamps="true")).text.split()[0]


async def test_following_a_dead_container_ends(bench: Bench) -> None:
    response = await bench.get("/containerLogs/shop/p/dead", follow="true", tailLines="1")
    assert len(response.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/containerLogs/shop/x/c", {}, 404),
        ("/containerLogs/shop/p/c", {"tailLines": "-1"}, 400),
        ("/containerLogs/shop/p/c", {"sinceTime": "yesterday"}, 400),
        ("/nothing", {}, 404),
    ],
)
async def test_what_is_refused(bench: Bench, path: str, query: dict[str, str], code: int) -> None:
    assert (await bench.get(path, **query)).status_code == code


async def test_exec_separates_streams_and_tells_the_exit_code(bench: Bench) -> None:
    query = "command=sh&command=-c&command=echo%20out%20$NAME;%20echo%20err%20%3E%262;%20exit%207&output=1&error=1"
    async with bench.exec(query) as websocket:
        assert websocket.subprotocol == "v5.channel.k8s.io"
        said, status = await talk(websocket)
    assert said == {STDOUT: b"out value\n", STDERR: b"err\n"}
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


async def test_exec_success(bench: Bench) -> None:
    async with bench.exec("command=true&output=1&error=1", protocol="v4.channel.k8s.io") as websocket:
        assert websocket.subprotocol == "v4.channel.k8s.io"
        said, status = await talk(websocket)
    assert (said, status) == ({}, {"metadata": {}, "status": "Success"})


async def test_exec_of_what_is_not_there(bench: Bench) -> None:
    async with bench.exec("command=no-such-program&output=1&error=1") as websocket:
        said, status = await talk(websocket)
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "126"}]
    assert said[STDERR].startswith(b"exec failed: ")
    assert b'"no-such-program": executable file not found' in said[STDERR]


async def test_exec_takes_input_until_it_is_closed(bench: Bench) -> None:
    async with bench.exec("command=cat&input=1&output=1&error=1") as websocket:
        await websocket.send(bytes([STDIN]) + b"hello ")
        await websocket.send(bytes([STDIN]) + b"world")
        await websocket.send(bytes([CLOSE, STDIN]))
        said, status = await talk(websocket)
    assert said == {STDOUT: b"hello world"}
    assert status["status"] == "Success"


async def test_exec_carries_much_both_ways(bench: Bench) -> None:
    block = bytes(range(256)) * 256
    async with bench.exec("command=cat&input=1&output=1&error=1") as websocket:

        async def send() -> None:
            for _ in range(32):
                await websocket.send(bytes([STDIN]) + block)
            await websocket.send(bytes([CLOSE, STDIN]))

        sending = asyncio.create_task(send())
        said, status = await talk(websocket)
        await sending
    assert said[STDOUT] == block * 32
    assert status["status"] == "Success"


async def test_exec_with_a_terminal(bench: Bench) -> None:
    query = "command=sh&command=-c&command=read%20x;%20stty%20size;%20exit%203&input=1&output=1&tty=1"
    async with bench.exec(query) as websocket:
        await websocket.send(bytes([RESIZE]) + b'{"Width":91,"Height":17}')
        await asyncio.sleep(0.3)  # runc passes the size on by a signal; nothing tells when it has arrived
        await websocket.send(bytes([STDIN]) + b"\n")
        said, status = await talk(websocket)
    assert b"17 91" in said[STDOUT]
    assert status["details"]["causes"][0]["message"] == "3"


async def test_a_client_that_goes_takes_its_command_along(bench: Bench) -> None:
    marker = "command=sh&command=-c&command=echo%20up;%20exec%20sleep%20987654&output=1&error=1"
    async with bench.exec(marker) as websocket:
        assert await websocket.recv() == bytes([STDOUT]) + b"up\n"
    for _ in range(100):
        code, output = await ask(bench, "grep -l 98765[4] /proc/[0-9]*/cmdline 2>/dev/null | wc -l")
        if (code, output) == (0, "0"):
            return
        await asyncio.sleep(0.05)
    pytest.fail("the command still runs")


async def ask(bench: Bench, script: str) -> tuple[int, str]:
    return await run_command(make_runtime(bench.config), bench.known.running.id, ["sh", "-c", script], 10)


@pytest.mark.parametrize(
    ("path", "code"),
    [("/exec/shop/x/c", 404), ("/exec/shop/p/dead", 500), ("/attach/shop/p/dead", 500)],
)
async def test_refused_before_the_handshake(bench: Bench, path: str, code: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with bench.exec("command=true", path=path):
            pass
    assert refused.value.response.status_code == code


async def start_more(bench: Bench, script: str, **more: Any) -> None:
    """Another container, which the server then knows as the running one."""
    launch = replace(order(bench.config, "more", 0, script), **more)
    bench.known.running = await make_runtime(bench.config).start(launch)


async def test_attach_shows_what_comes_from_now_on_and_ends_with_the_container(bench: Bench) -> None:
    await start_more(bench, "echo before; read x; echo got $x; echo bad >&2; exit 3", stdin=True)
    async with bench.exec("input=1&output=1&error=1", path="/attach/shop/p/c") as websocket:
        await websocket.send(bytes([STDIN]) + b"a line\n")
        said, status = await talk(websocket)
    assert said[STDOUT].endswith(b"got a line\n")
    assert said[STDERR] == b"bad\n"
    assert status["status"] == "Success"


async def test_attach_with_a_terminal(bench: Bench) -> None:
    await start_more(bench, "read x; stty size", stdin=True, tty=True)
    async with bench.exec("input=1&output=1&tty=1", path="/attach/shop/p/c") as websocket:
        await websocket.send(bytes([RESIZE]) + b'{"Width":91,"Height":17}')
        await asyncio.sleep(0.3)  # conmon sets the size when it reads its fifo; nothing tells when it has
        await websocket.send(bytes([STDIN]) + b"\n")
        said, _ = await talk(websocket)
    assert b"17 91" in said[STDOUT]


async def test_who_detaches_leaves_the_container_running(bench: Bench) -> None:
    async with bench.exec("output=1&error=1", path="/attach/shop/p/c") as websocket:
        assert websocket.subprotocol == "v5.channel.k8s.io"
    assert await ask(bench, "echo still here") == (0, "still here")


async def test_exec_without_a_command(bench: Bench) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with bench.exec("output=1"):
            pass
    assert refused.value.response.status_code == 400


async def test_a_frame_that_makes_no_sense_ends_the_session(bench: Bench) -> None:
    async with bench.exec("command=sleep&command=60&output=1&tty=1") as websocket:
        await websocket.send(bytes([RESIZE]) + b"rubbish")
        with pytest.raises(ConnectionClosed):
            await websocket.recv()


# Commands that the kubelet makes itself


async def test_run_command(bench: Bench) -> None:
    assert await ask(bench, "echo out; echo err >&2; exit 4") in ((4, "out\nerr"), (4, "err\nout"))
    code, output = await ask(bench, "yes | head -c 100000")
    assert (code, len(output)) == (0, 10 * 1024 - 1)


async def test_run_command_in_time_or_not_at_all(bench: Bench) -> None:
    with pytest.raises(TimeoutError):
        await run_command(make_runtime(bench.config), bench.known.running.id, ["sleep", "876543"], 0.3)
    assert (await ask(bench, "grep -l 87654[3] /proc/[0-9]*/cmdline 2>/dev/null | wc -l"))[1] == "0"


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (Handler(exec=ExecAction(command=("true",))), ""),
        (Handler(exec=ExecAction(command=("sh", "-c", "echo no; exit 2"))), "command exited with 2: no"),
        (Handler(sleep=SleepAction(seconds=0)), ""),
        (Handler(sleep=SleepAction(seconds=60)), "not done within 1 s"),
        (Handler(http_get=HttpGet(port="none")), "no port 'none'"),
        (Handler(), ""),
    ],
)
async def test_hooks(bench: Bench, handler: Handler, problem: str) -> None:
    checker = Checker()
    told = await run_handler(
        handler,
        ContainerSpec(name="c"),
        bench.known.running,
        runtime=make_runtime(bench.config),
        checker=checker,
        address="127.0.0.1",
        seconds=1,
    )
    await checker.close()
    assert told.startswith(problem)
    assert bool(told) == bool(problem)


class Tunnel:
    """What ``kubectl port-forward`` does: streams in a SPDY session in a WebSocket."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket, self._encoder, self._decoder = websocket, Encoder(), Decoder()
        self._streams = 1

    async def send(self, data: bytes) -> None:
        await self._websocket.send(data)

    async def open(self, port: int) -> tuple[int, int]:
        """A connection to the port: its error and its data stream."""
        error, data = self._streams, self._streams + 2
        self._streams += 4
        for stream, kind in ((error, "error"), (data, "data")):
            headers = {"streamtype": kind, "port": str(port), "requestid": str(error)}
            await self.send(self._encoder.open(stream, headers))
        await self.send(render_data(error, b"", last=True))
        return error, data

    async def read(self) -> list[Frame]:
        """What has come; [] for replies."""
        frame = await self._websocket.recv()
        assert isinstance(frame, bytes)
        return self._decoder.feed(frame)

    async def read_all(self, *streams: int) -> dict[int, bytes]:
        """Everything that comes in these streams, until all have ended."""
        said, open_ = dict.fromkeys(streams, b""), set(streams)
        while open_:
            for frame in await self.read():
                assert isinstance(frame, Data)
                said[frame.stream] += frame.payload
                open_ -= {frame.stream} if frame.last else set()
        return said


@pytest.fixture
async def tunnel(bench: Bench) -> AsyncIterator[Tunnel]:
    uri = f"wss://{bench.address}/portForward/shop/p?"
    async with connect(uri, ssl=bench.client, proxy=None, max_size=None) as websocket:
        yield Tunnel(websocket)


async def shouting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says in capitals what it has heard, once it has heard all."""
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


async def test_port_forward_carries_connections_side_by_side(tunnel: Tunnel) -> None:
    async with await asyncio.start_server(shouting, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (error1, data1), (error2, data2) = await tunnel.open(port), await tunnel.open(port)
        much = b"much" * 100_000
        await tunnel.send(render_data(data2, b"two", last=True))
        for at in range(0, len(much), 30_000):
            await tunnel.send(render_data(data1, much[at : at + 30_000]))
        await tunnel.send(render_data(data1, b"", last=True))
        said = await tunnel.read_all(error1, data1, error2, data2)
    assert said == {error1: b"", data1: much.upper(), error2: b"", data2: b"TWO"}


async def test_port_forward_to_where_nobody_listens(tunnel: Tunnel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    error, data = await tunnel.open(port)
    said = await tunnel.read_all(error, data)
    assert said == {error: f"cannot connect to localhost:{port} inside the pod: Connection refused".encode(), data: b""}
    await tunnel.send(render_data(data, b"too late"))  # is no news for anybody
    await tunnel.send(render_ping(1))
    assert await tunnel.read() == [Ping(1)]


async def test_port_forward_closes_what_the_client_gives_up(tunnel: Tunnel) -> None:
    ended = asyncio.Event()

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(listening, "127.0.0.1", 0) as server:
        _, data = await tunnel.open(server.sockets[0].getsockname()[1])
        while await tunnel.read() != [Data(data, b"hello")]:
            continue
        await tunnel.send(render_reset(data))
        await ended.wait()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x80GET / HTTP/1.1\r\n",
        Encoder().open(1, {"streamtype": "data", "port": "80", "requestid": "1"}),
        Encoder().open(1, {"streamtype": "error", "port": "0", "requestid": "1"}),
        Encoder().open(1, {"streamtype": "error"}),
        Encoder().open(1, {"streamtype": "news", "port": "80"}),
    ],
)
async def test_who_does_not_speak_port_forward_is_told_so(tunnel: Tunnel, sent: bytes) -> None:
    await tunnel.send(sent)
    with pytest.raises(ConnectionClosed) as closed:
        await tunnel.read()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


async def test_port_forward_needs_a_pod(bench: Bench) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"wss://{bench.address}/portForward/shop/none", ssl=bench.client, proxy=None)
    assert refused.value.response.status_code == 404
