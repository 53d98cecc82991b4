"""A real API server in a process of its own on loopback, and the controllers in this one. No pods run: tests patch
their status by hand, as a kubelet would.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from agent import controllers
from agent.config import Config, dump_config
from agent.kube import rest
from agent.kube.client import Client, connect
from agent.pki import ensure_pki

T = TypeVar("T")
Json = dict[str, Any]
NODE_IP = "192.0.2.2"  # what the base Services point at; nobody is there
SERVER = """
import asyncio, socket, sys
from pathlib import Path
from agent import apiserver
from agent.config import read_resolved
listening = [socket.socket(fileno=int(sys.argv[2]))]
say = lambda: print("ready", flush=True)
asyncio.run(apiserver.serve(read_resolved(Path(sys.argv[1])), sockets=listening, ready=say))
"""


class ApiServer:
    """The listening socket lives here, so that the server can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.config = Config(state_dir=folder, node_name="n1", api_port=self._sock.getsockname()[1])
        self._process: asyncio.subprocess.Process | None = None
        self.config.paths.run_dir.mkdir(parents=True, exist_ok=True)
        self.config.paths.resolved_config.write_bytes(dump_config(self.config))
        ensure_pki(self.config, loopback_port=self.config.api_port)

    async def start(self) -> None:
        descriptor = self._sock.fileno()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SERVER,
            str(self.config.paths.resolved_config),
            str(descriptor),
            pass_fds=(descriptor,),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line == b"ready\n", f"the API server did not start: {line!r}"

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            try:
                await asyncio.wait_for(self._process.communicate(), 20)  # reads to the end, so that the pipe is closed
            except TimeoutError:
                self._process.kill()
                await self._process.communicate()
            await asyncio.sleep(0)  # the transport closes in the loop's next turn
            self._process = None

    def close(self) -> None:
        self._sock.close()


@dataclass(frozen=True)
class Cluster:
    """Short ways to do what users and kubelets do."""

    server: ApiServer
    client: Client
    config: Config

    async def get(self, path: str) -> Json | None:
        """The object, or None."""
        try:
            return await rest.get(self.client, path)
        except rest.ApiError as error:
            if error.not_found:
                return None
            raise

    async def items(self, path: str, **params: str) -> list[Json]:
        return list((await rest.get(self.client, path, params=params))["items"])

    async def create(
        self, kind: str, name: str, *, namespace: str = "default", meta: Json | None = None, **f: Any
    ) -> Json:
        version, path = PATHS[kind]
        metadata = {"name": name, **(meta or {})}
        body = {"apiVersion": version, "kind": kind, "metadata": metadata, **f}
        return await rest.create(self.client, path.format(namespace), body)

    async def patch(self, path: str, **body: Any) -> Json:
        return await rest.patch(self.client, path, body)

    async def delete(self, path: str, **options: Any) -> None:
        await rest.delete(self.client, path, **options)

    async def make_node(self, name: str = "n1", **meta: Any) -> None:
        await self.create("Node", name, meta=meta)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        await rest.patch_listed(self.client, f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})

    async def make_replicaset(self, name: str, replicas: int, *, namespace: str = "default", **spec: Any) -> Json:
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": POD_SPEC}
        whole = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec}
        return await self.create("ReplicaSet", name, namespace=namespace, meta={"labels": labels}, spec=whole)

    async def make_service(self, name: str, *, selector: Json | None, namespace: str = "default", **spec: Any) -> Json:
        whole = {"ports": [{"port": 80, "targetPort": 8080}], **spec}
        if selector is not None:
            whole["selector"] = selector
        return await self.create("Service", name, namespace=namespace, spec=whole)

    async def pods(self, app: str, namespace: str = "default") -> list[Json]:
        return await self.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"app={app}")

    async def slices(self, service: str, namespace: str = "default") -> list[Json]:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        return await self.items(path, labelSelector=f"kubernetes.io/service-name={service}")

    async def run_pod(self, pod: Json, ip: str, *, ready: bool = True) -> None:
        """Say what a kubelet says of a pod that runs."""
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "lastTransitionTime": "2025-01-01T00:00:00Z",
        }
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
        await rest.patch_listed(self.client, f"{pod_path(pod)}/status", {"status": status})

    async def end_pod(self, pod: Json) -> None:
        """What a kubelet does when all containers of a pod that is being deleted have ended."""
        await rest.delete(self.client, pod_path(pod), uid=pod["metadata"]["uid"], grace=0)


POD_SPEC = {"containers": [{"name": "c", "image": "podwire/echo", "ports": [{"name": "http", "containerPort": 8080}]}]}
PATHS = {
    "Namespace": ("v1", "/api/v1/namespaces"),
    "Node": ("v1", "/api/v1/nodes"),
    "Pod": ("v1", "/api/v1/namespaces/{}/pods"),
    "Service": ("v1", "/api/v1/namespaces/{}/services"),
    "Endpoints": ("v1", "/api/v1/namespaces/{}/endpoints"),
    "ConfigMap": ("v1", "/api/v1/namespaces/{}/configmaps"),
    "ReplicaSet": ("apps/v1", "/apis/apps/v1/namespaces/{}/replicasets"),
    "Lease": ("coordination.k8s.io/v1", "/apis/coordination.k8s.io/v1/namespaces/{}/leases"),
    "EndpointSlice": ("discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"),
}


def pod_path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def rs_path(name: str) -> str:
    return f"/apis/apps/v1/namespaces/default/replicasets/{name}"


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[Cluster]:
    """The API server alone."""
    server = ApiServer(folder)
    try:
        await server.start()
        client = connect(server.config.paths.kubeconfig)
        try:
            yield Cluster(server, client, replace(server.config, node_ip=NODE_IP))
        finally:
            await client.close()
    finally:
        await server.stop()
        server.close()


@contextmanager
def cut_connections() -> Iterator[None]:
    """httpcore2 leaves the socket of a TLS handshake that is cut off (the server was killed, the client cancelled) to
    the garbage collector, which complains whenever it comes by. Here it comes by at the end, and keeps quiet.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="unclosed (transport|<socket)", category=ResourceWarning)
        yield
        gc.collect()


@asynccontextmanager
async def running_controllers(cluster: Cluster) -> AsyncIterator[None]:
    """All controllers, with a client of their own, from ready to cancelled."""
    with cut_connections():
        async with _controllers(cluster):
            yield


@asynccontextmanager
async def _controllers(cluster: Cluster) -> AsyncIterator[None]:
    client = connect(cluster.config.paths.kubeconfig, field_manager="podwire-controllers")
    ready = asyncio.Event()
    task = asyncio.create_task(controllers.run(client, cluster.config, ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert ready.is_set(), "controllers did not become ready"
        yield
    finally:
        task.cancel()
        waiting.cancel()
        results = await asyncio.gather(task, waiting, return_exceptions=True)
        await client.close()
    assert isinstance(results[0], asyncio.CancelledError), f"controllers ended by themselves: {results[0]!r}"


async def eventually(look: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """The first true answer of ``look`` (an async function); its last AssertionError if there is none in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        last = asyncio.get_running_loop().time() > deadline
        try:
            answer = await look()
            if answer or last:
                assert answer, "it never became true"
                return answer
        except AssertionError:
            if last:
                raise
        await asyncio.sleep(0.02)
