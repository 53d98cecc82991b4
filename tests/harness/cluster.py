"""An API server with Services, EndpointSlices and Nodes, as far as a proxy needs one: real HTTP, scripted content."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from agent.kube.client import Client, connect
from netns import namespaces
from tests.harness.scripted_api import ScriptedApi, until, write_kubeconfig

T = TypeVar("T")


class Collection(ScriptedApi):
    """A collection whose objects may have more metadata than a name."""

    def put_meta(self, name: str, meta: dict[str, Any], **fields: Any) -> None:
        namespace = meta.get("namespace", "default")
        known = self.objects.get((namespace, name))
        self.version += 1
        uid = known["metadata"]["uid"] if known else f"uid-{self.version}"
        full = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(self.version), **meta}
        self.objects[(namespace, name)] = {"metadata": full, **fields}
        self._emit("MODIFIED" if known else "ADDED", self.objects[(namespace, name)])


class Cluster:
    """Services, EndpointSlices and Nodes behind one server."""

    def __init__(self) -> None:
        self.services, self.slices, self.nodes = Collection(), Collection(), Collection()

    def put_service(self, name: str = "web", vip: str = "10.96.0.10", **spec: Any) -> None:
        self.services.put_meta(name, {}, spec={"clusterIPs": [vip], "ports": [{"port": 80}], **spec})

    def put_slice(self, *addresses: str, name: str = "web", changed: str = "", protocol: str = "TCP") -> None:
        meta: dict[str, Any] = {"labels": {"kubernetes.io/service-name": name}}
        if changed:
            meta["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": changed}
        endpoints = [{"addresses": [address], "nodeName": "here"} for address in addresses] or None
        ports = [{"name": "", "port": 8080, "protocol": protocol}]
        self.slices.put_meta(f"{name}-1", meta, addressType="IPv4", ports=ports, endpoints=endpoints)


class Away:
    """A cluster whose loop runs in another thread, for tests that wait for real time to pass."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._cluster, self._client, self._loop = cluster, client, asyncio.get_running_loop()

    def do(self, action: Callable[[Cluster], T]) -> T:
        """Change what the cluster holds."""

        async def act() -> T:
            return action(self._cluster)

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Ask it over HTTP."""
        return asyncio.run_coroutine_threadsafe(question(self._client), self._loop).result()


@contextmanager
def cluster_away(folder: Path, netns: str) -> Iterator[Away]:
    """``serve_cluster`` on the loopback of a network namespace; the kubeconfig is ``folder/scripted.kubeconfig``."""
    found: queue.SimpleQueue[Away | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    async def main() -> None:
        async with serve_cluster(folder) as (cluster, client):
            found.put(Away(cluster, client))
            await asyncio.to_thread(stop.wait)

    def work() -> None:
        try:
            namespaces.enter(netns)
            asyncio.run(main())
        except BaseException as error:
            found.put(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        away = found.get()
        if isinstance(away, BaseException):
            raise away
        yield away
    finally:
        stop.set()
        thread.join()


@asynccontextmanager
async def serve_cluster(folder: Path) -> AsyncIterator[tuple[Cluster, Client]]:
    cluster = Cluster()
    routes = [
        Route("/api/v1/services", cluster.services.read),
        Route("/apis/discovery.k8s.io/v1/endpointslices", cluster.slices.read),
        Route("/api/v1/nodes", cluster.nodes.read),
        Route("/{path:path}", cluster.services.write, methods=["POST", "PATCH"]),
    ]
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", http="h11", ws="none")
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    client = connect(write_kubeconfig(folder, f"http://127.0.0.1:{sock.getsockname()[1]}"))
    try:
        await until(lambda: server.started)
        yield cluster, client
    finally:
        await client.close()
        server.should_exit = True
        while not serving.done():  # a watch may have been asked for at the very last moment
            for api in (cluster.services, cluster.slices, cluster.nodes):
                api.end_watches()
            await asyncio.wait([serving], timeout=0.01)
        sock.close()
