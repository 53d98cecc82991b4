"""Probes against real sockets on loopback, and what a prober makes of a series of results."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import Config
from agent.kubelet.pod import ProbeState
from agent.kubelet.probes import (
    Checker,
    Kind,
    ProbeError,
    Prober,
)
from agent.kubelet.spec import ContainerSpec, Port, Probe
from agent.pki import ensure_pki

PORTS = (Port(container_port=8080, name="web"), Port(container_port=9090))


def probe(**fields: Any) -> Probe:
    return msgspec.convert(fields, Probe)


async def no_command(argv: Sequence[str], seconds: float) -> tuple[int, str]:
    raise AssertionError("no command was asked for")


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    made = Checker()
    yield made
    await made.close()


@asynccontextmanager
async def http_server(
    answers: dict[str, bytes], requests: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Answers each path with fixed bytes; a path that it does not know is never answered."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # a probe that gave up before it had asked
            writer.close()
            return
        if requests is not None:
            requests.append(request)
        answer = answers.get(request.split(b" ")[1].decode())
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def answer(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", *headers, "", ""]).encode()


async def check(
    checker: Checker,
    run_command: Callable[[Sequence[str], float], Awaitable[tuple[int, str]]] = no_command,
    **fields: Any,
) -> tuple[bool, str]:
    return await checker.check(probe(**fields), address="127.0.0.1", ports=PORTS, run_command=run_command)


@pytest.mark.parametrize(
    ("status", "success"), [(200, True), (204, True), (399, True), (400, False), (404, False), (500, False)]
)
async def test_http_status(checker: Checker, status: int, success: bool) -> None:
    async with http_server({"/x?y=1": answer(status)}) as port:
        told, message = await check(checker, httpGet={"port": port, "path": "/x?y=1"})
    assert told is success
    assert success or message == f"HTTP probe failed with statuscode: {status}"


async def test_http_headers(checker: Checker) -> None:
    requests: list[bytes] = []
    headers = [
        {"name": "Host", "value": "db.example"},
        {"name": "user-agent", "value": "me"},
        {"name": "X", "value": "1"},
    ]
    async with http_server({"/": answer(200)}, requests) as port:
        await check(checker, httpGet={"port": port})
        await check(checker, httpGet={"port": port, "path": "", "httpHeaders": headers})
    assert b"User-Agent: kube-probe/" in requests[0]
    assert b"Accept: */*" in requests[0]
    assert b"\r\nX: 1\r\n" in requests[1]
    assert b"db.example" in requests[1]
    assert b"kube-probe" not in requests[1]


async def test_http_redirects_stay_on_the_host(checker: Checker) -> None:
    answers = {
        "/good": answer(302, "Location: /ok"),
        "/ok": answer(200),
        "/bad": answer(301, "Location: /missing"),
        "/missing": answer(404),
        "/away": answer(302, "Location: http://192.0.2.1/"),
        "/round": answer(302, "Location: /round"),
    }
    async with http_server(answers) as port:
        told = {
            path: await check(checker, httpGet={"port": port, "path": path})
            for path in ("/good", "/bad", "/away", "/round")
        }
    assert [told[path][0] for path in ("/good", "/bad", "/away", "/round")] == [True, False, True, False]
    assert "redirects" in told["/round"][1]


async def test_https_is_not_verified(checker: Checker, tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, node_name="n", node_ip="127.0.0.1")
    ensure_pki(config, loopback_port=1)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(config.paths.pki / "kubelet.crt", config.paths.pki / "kubelet.key")
    async with http_server({"/": answer(200)}, tls=tls) as port:
        assert await check(checker, httpGet={"port": port, "scheme": "HTTPS"}) == (
            True,
            "HTTP probe failed with statuscode: 200",
        )


async def test_nobody_listens(checker: Checker) -> None:
    async with http_server({}) as port:
        pass
    told, message = await check(checker, httpGet={"port": port})
    assert not told
    assert message == f'Get "http://127.0.0.1:{port}/": connection refused'
    assert await check(checker, tcpSocket={"port": port}) == (False, f"dial tcp 127.0.0.1:{port}: connection refused")


async def test_somebody_listens(checker: Checker) -> None:
    async with http_server({"/": answer(200)}) as port:
        assert (await check(checker, tcpSocket={"port": port}))[0]
        assert (await check(checker, tcpSocket={"port": port, "host": "127.0.0.1"}))[0]


async def test_no_answer_in_time(checker: Checker) -> None:
    async with http_server({}) as port:
        told = await check(checker, httpGet={"port": port, "path": "/silent"}, timeoutSeconds=1)
    assert told == (False, "no answer within 1 s")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ((0, "fine"), (True, "fine")),
        ((1, "no such file"), (False, "no such file")),
        ((3, ""), (False, "exit code 3")),
        (TimeoutError(), (False, "command timed out after 1 s: cat /x")),
    ],
)
async def test_commands(checker: Checker, result: Any, told: tuple[bool, str]) -> None:
    async def run(argv: Sequence[str], seconds: float) -> tuple[int, str]:
        assert tuple(argv) == ("cat", "/x")
        if isinstance(result, Exception):
            raise result
        code, output = result
        return int(code), str(output)

    assert await check(checker, run, exec={"command": ["cat", "/x"]}) == told


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grpc": {"port": 1}}, "gRPC probes are not supported"),
        ({}, "no httpGet"),
        ({"tcpSocket": {"port": "x"}}, "no port"),
        ({"httpGet": {"port": 1, "host": "a\n"}}, "cannot ask"),
    ],
)
async def test_probes_that_cannot_be_made(checker: Checker, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        await check(checker, **fields)


# The prober: a script of results in, states and Events out


class Script:
    """Results to give, one per look (None: the probe itself cannot be made); then the last for ever."""

    def __init__(self, **results: str) -> None:
        self.results = {kind: list(marks) for kind, marks in results.items()}
        self.events: list[tuple[str, str]] = []
        self.states: asyncio.Queue[ProbeState] = asyncio.Queue()
        fields = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 0}
        probes = {f"{kind}Probe": {**fields, "timeoutSeconds": i + 1} for i, kind in enumerate(results)}
        self.kinds = dict(enumerate(results, start=1))
        self.spec = msgspec.convert({"name": "c", **probes}, ContainerSpec)
        started = "startup" not in results
        known = ProbeState(started=started, ready=started and "readiness" not in results)
        self.prober = Prober(self.spec, self.check, known=known, changed=self.changed, unhealthy=self.unhealthy)

    async def check(self, probe: Probe) -> tuple[bool, str]:
        marks = self.results[self.kinds[probe.timeout_seconds]]
        mark = marks.pop(0) if len(marks) > 1 else marks[0]
        if mark == "?":
            raise ProbeError("odd")
        return mark == "+", "bad"

    def changed(self) -> None:
        self.states.put_nowait(self.prober.state)

    def unhealthy(self, kind: Kind, message: str) -> None:
        self.events.append((kind, message))


async def test_readiness_follows_quickly_and_early_failures_are_not_told() -> None:
    script = Script(readiness="---+")
    script.prober.start()
    assert await script.states.get() == ProbeState(started=True, ready=True)
    await script.prober.stop()
    assert script.events == []


async def test_readiness_is_lost_and_told() -> None:
    script = Script(readiness="+-")
    script.prober.start()
    assert (await script.states.get()).ready
    assert not (await script.states.get()).ready
    await script.prober.stop()
    assert script.events == [("readiness", "Readiness probe failed: bad")]


async def test_a_startup_probe_holds_back_readiness() -> None:
    script = Script(startup="--+", readiness="+")
    script.prober.start()
    assert await script.states.get() == ProbeState(started=True, ready=False)
    assert await script.states.get() == ProbeState(started=True, ready=True)
    await script.prober.stop()


async def test_liveness_condemns() -> None:
    script = Script(liveness="-")
    script.prober.start()
    assert await script.states.get() == ProbeState(started=True, ready=False, failed="liveness")
    await script.prober.stop()
    assert script.events == [("liveness", "Liveness probe failed: bad")]


async def test_startup_condemns() -> None:
    script = Script(startup="-")
    script.prober.start()
    assert (await script.states.get()).failed == "startup"
    await script.prober.stop()


async def test_a_probe_that_cannot_be_made_says_nothing_about_the_container() -> None:
    script = Script(readiness="?" * 6 + "+")
    script.prober.start()
    assert (await script.states.get()).ready
    await script.prober.stop()
    assert script.events == [("readiness", "Readiness probe errored: odd")]


async def test_a_pod_that_is_deleted_is_spared() -> None:
    script = Script(liveness="-", readiness="+")
    script.prober.start()
    await script.prober.spare()
    assert (await script.states.get()).ready
    await script.prober.stop()
    assert script.states.empty()


async def test_what_was_known_stays_until_a_probe_says_otherwise() -> None:
    script = Script(startup="+", readiness="-")
    known = ProbeState(started=True, ready=True)
    prober = Prober(script.spec, script.check, known=known, changed=script.changed, unhealthy=script.unhealthy)
    script.prober = prober
    prober.start()
    assert prober.state == known
    assert await script.states.get() == ProbeState(started=True, ready=False)
    await prober.stop()
