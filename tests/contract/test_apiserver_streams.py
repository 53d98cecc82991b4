"""Logs and exec through the API server, with a kubelet at the other end that says what it was asked.

The kubelet here is a stand-in: TLS with client certificates, logs over HTTP, exec over WebSocket, spoken as by
agent.kubelet.server.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.harness.apiserver import ApiServer, running_apiserver
from tests.harness.rest import Json, Refused, Rest

NODE = "node-under-test"
V5, V4 = Subprotocol("v5.channel.k8s.io"), Subprotocol("v4.channel.k8s.io")


class Kubelet:
    """Echoes what it is asked and what it is sent."""

    def __init__(self, server: ApiServer) -> None:
        pki = server.config.paths.pki
        path = "/{namespace}/{pod}/{container}"
        routes = [Route(f"/containerLogs{path}", self.logs), WebSocketRoute(f"/exec{path}", self.exec)]
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=routes),
                port=0,
                ws="websockets-sansio",
                lifespan="off",
                log_config=None,
                ssl_keyfile=pki / "kubelet.key",
                ssl_certfile=pki / "kubelet.crt",
                ssl_ca_certs=str(pki / "ca.crt"),
                ssl_cert_reqs=ssl.CERT_REQUIRED,
            )
        )
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        await self._server.startup()
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._started.set()
        await self._server.main_loop()
        await self._server.shutdown()

    def __enter__(self) -> Kubelet:
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def logs(self, request: Request) -> Response:
        if request.path_params["container"] == "waiting":
            return PlainTextResponse("container is waiting to start", status_code=400)

        async def lines() -> Any:
            yield f"{request.url.path}\n".encode()
            yield f"{json.dumps(dict(sorted(request.query_params.items())))}\n".encode()
            while request.query_params.get("follow") == "true":
                yield b"tick\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(lines(), media_type="text/plain")

    async def exec(self, websocket: WebSocket) -> None:
        if websocket.path_params["container"] == "waiting":
            await websocket.send_denial_response(PlainTextResponse("container not running (waiting)", status_code=500))
            return
        await websocket.accept(subprotocol=websocket.scope["subprotocols"][0])
        await websocket.send_bytes(b"\x01" + json.dumps(websocket.query_params.multi_items()).encode())
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if message.get("bytes") == b"\x00bye":
                await websocket.send_bytes(b'\x03{"status":"Success"}')
                await websocket.close()
                return
            data = message.get("bytes")
            await (websocket.send_bytes(data) if data is not None else websocket.send_text(message["text"]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_apiserver(tmp_path_factory.mktemp("apiserver")) as running, Kubelet(running) as kubelet:
        with running.client() as http:
            status = {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
            }
            http.post("/api/v1/nodes", json={"metadata": {"name": NODE}, "status": status}).raise_for_status()
            lost = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
            lost["daemonEndpoints"] = {"kubeletEndpoint": {"Port": 1}}  # type: ignore[assignment]
            http.post("/api/v1/nodes", json={"metadata": {"name": "lost"}, "status": lost}).raise_for_status()
        yield running


@pytest.fixture
def api(server: ApiServer) -> Iterator[Rest]:
    rest = Rest(server)
    for name, node, containers in (
        ("one", NODE, ("main",)),
        ("two", NODE, ("main", "waiting")),
        ("nowhere", "", ("main",)),
        ("lost", "lost", ("main",)),
    ):
        spec: Json = {"containers": [{"name": container, "image": "busybox"} for container in containers]}
        rest.create("pods", {"metadata": {"name": name}, "spec": {**spec, **({"nodeName": node} if node else {})}})
    yield rest
    rest.http.close()


def exec_in(server: ApiServer, api: Rest, pod: str, query: str, *protocols: Subprotocol) -> ClientConnection:
    return connect(
        f"{server.url.replace('https', 'wss')}{api.path('pods', pod)}/exec?{query}",
        ssl=server.tls,
        additional_headers={"Authorization": f"Bearer {server.token}"},
        subprotocols=protocols or (V5, V4),
        compression=None,
        proxy=None,
        max_size=None,
    )


def test_logs_are_asked_of_the_pods_node(api: Rest) -> None:
    text = api.response("GET", api.path("pods", "one/log"), tailLines=5, timestamps="true").text
    path, parameters = text.splitlines()
    assert path == f"/containerLogs/{api.namespace}/one/main"
    assert json.loads(parameters) == {"tailLines": "5", "timestamps": "true"}


def test_a_followed_log_is_told_as_it_comes(api: Rest) -> None:
    with api.http.stream("GET", api.path("pods", "one/log"), params={"follow": "true"}) as response:
        assert response.headers["content-type"] == "text/plain"
        lines = response.iter_lines()
        assert [next(lines) for _ in range(5)][2:] == ["tick"] * 3


def test_logs_that_cannot_be_had(api: Rest) -> None:
    assert api.response("GET", api.path("pods", "nowhere/log")).text == ""
    for path, params, code, said in (
        ("two/log", {}, 400, r"a container name must be specified for pod two, choose one of: \[main waiting\]"),
        ("two/log", {"container": "x"}, 400, "container x is not valid for pod two"),
        ("two/log", {"container": "waiting"}, 400, "container is waiting to start"),
        ("none/log", {}, 404, 'pods "none" not found'),
        ("lost/log", {}, 502, "cannot reach the kubelet at 127.0.0.1:1"),
    ):
        with pytest.raises(Refused, match=said) as refused:
            api.call("GET", api.path("pods", path), **params)  # type: ignore[arg-type]
        assert refused.value.code == code


def test_exec_hands_frames_through(api: Rest, server: ApiServer) -> None:
    query = "command=ls&command=-l%20%2F&stdin=true&stdout=true&tty=false"
    with exec_in(server, api, "one", query) as session:
        assert session.subprotocol == V5
        asked = session.recv()
        assert isinstance(asked, bytes)
        assert json.loads(asked[1:]) == [["command", "ls"], ["command", "-l /"], ["input", "1"], ["output", "1"]]
        big = b"\x00" + bytes(range(256)) * 8192  # two megabytes
        for frame in (b"\x00hello", b"", b"\xff\x00", "text", big):
            session.send(frame)
            assert session.recv() == frame
        session.send(b"\x00bye")
        assert list(session) == [b'\x03{"status":"Success"}']


def test_exec_speaks_what_the_client_can(api: Rest, server: ApiServer) -> None:
    with exec_in(server, api, "one", "command=ls", V4) as session:
        assert session.subprotocol == V4
    with pytest.raises(InvalidStatus) as refused:
        exec_in(server, api, "one", "command=ls", Subprotocol("v1.channel.k8s.io"))
    assert refused.value.response.status_code == 400
    assert b"v5.channel.k8s.io" in (refused.value.response.body or b"")


def test_exec_that_cannot_be(api: Rest, server: ApiServer) -> None:
    for pod, code, said in (
        ("two", 400, "a container name must be specified"),
        ("nowhere", 400, "does not have a host assigned"),
        ("none", 404, "not found"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            exec_in(server, api, pod, "command=ls")
        status = json.loads(refused.value.response.body or b"")
        assert (refused.value.response.status_code, status["code"]) == (code, code)
        assert said in status["message"]


def test_what_the_kubelet_refuses_is_told_in_the_session(api: Rest, server: ApiServer) -> None:
    for pod, query, said in (
        ("two", "container=waiting&command=ls", "container not running (waiting)"),
        ("lost", "command=ls", "cannot reach the kubelet at 127.0.0.1:1"),
    ):
        with exec_in(server, api, pod, query) as session:
            (frame,) = list(session)
        assert isinstance(frame, bytes)
        status = json.loads(frame[1:])
        assert (frame[:1], status["status"]) == (b"\x03", "Failure")
        assert said in status["message"]


def test_exec_needs_the_token(api: Rest, server: ApiServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(
            f"{server.url.replace('https', 'wss')}{api.path('pods', 'one')}/exec?command=ls", ssl=server.tls, proxy=None
        )
    assert refused.value.response.status_code == 401


def test_other_ways_in_say_what_to_do(api: Rest) -> None:
    for method in ("GET", "POST"):
        for what in ("exec", "portforward"):
            with pytest.raises(Refused, match=r"WebSocket only.*kubectl 1\.31") as refused:
                api.call(method, api.path("pods", f"one/{what}"), command="ls")
            assert refused.value.code == 400
    with pytest.raises(Refused, match="does not have a host assigned"):
        api.call("POST", api.path("pods", "nowhere/portforward"))


def test_an_open_session_does_not_hold_the_server(api: Rest, server: ApiServer) -> None:
    with exec_in(server, api, "one", "command=ls") as session:
        session.recv()
        with api.http.stream("GET", api.path("pods", "one/log"), params={"follow": "true"}) as response:
            next(response.iter_lines())
            assert server.stop() == 0
    server.start()
    assert "Traceback" not in server.log()
