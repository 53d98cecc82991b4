"""What a pod costs without any API: its sandbox (namespace, veth, address, files), and its container under conmon.

Everything happens in a network namespace of its own, and is removed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.kubelet.containers import Container, Launch, Runtime
from agent.kubelet.images import Image, load_catalogue, resolve_argv, resolve_image
from agent.kubelet.sandbox import Sandbox, Sandboxes, SandboxSpec
from benchmarks.tables import print_table, summary
from netns import host, namespaces

PODS = 20
CIDR, GATEWAY, BRIDGE = "10.244.0.0/24", "10.244.0.1", "podwire0"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pwt-") as home, _node() as node:
        times = asyncio.run(_measure(Path(home), node))
    rows = [(what, *summary(values)) for what, values in times.items()]
    print_table(f"Starting {PODS} pods, one after the other", ("what", "runs", "median", "p99", "max"), rows)


@contextlib.contextmanager
def _node() -> Iterator[str]:
    name = f"pwt-{secrets.token_hex(4)}-bench"
    namespaces.ensure(name)
    try:
        namespaces.inside(name, lambda: host.prepare_node(BRIDGE, f"{GATEWAY}/24"))
        yield name
    finally:
        namespaces.remove(name)


async def _measure(home: Path, node: str) -> dict[str, list[float]]:
    runtime = Runtime(home / "containers", home / "run", cgroup_parent=f"podwire-{secrets.token_hex(4)}")
    sandboxes = Sandboxes(home / "pods", home / "ipam.json", bridge=BRIDGE, pod_cidr=CIDR, gateway=GATEWAY, netns=node)
    times: dict[str, list[float]] = {}
    try:
        for number in range(PODS):
            await _one_pod(runtime, sandboxes, home, number, times)
    finally:
        await runtime.clean()
        await sandboxes.clean()
        sandboxes.close()
    return times


async def _one_pod(
    runtime: Runtime, sandboxes: Sandboxes, home: Path, number: int, times: dict[str, list[float]]
) -> None:
    uid = f"{number:08x}-bench"
    with _timed("sandbox", times):
        sandbox = await sandboxes.ensure(SandboxSpec(uid=uid, namespace="bench", name=f"p{number}", hostname="p"))
    with _timed("container created and started", times):
        container = await _start(runtime, sandbox, home)
    with _timed("exec true", times):
        process = await runtime.exec(container.id, ["true"])
        await process.wait()
    with _timed("container killed and removed", times):
        await runtime.remove(container.id)
    with _timed("sandbox removed", times):
        await sandboxes.remove(uid)


async def _start(runtime: Runtime, sandbox: Sandbox, home: Path) -> Container:
    image = resolve_image("podwire/echo", load_catalogue(home / "images"))
    assert isinstance(image, Image)
    return await runtime.start(
        Launch(
            id=f"{sandbox.uid}-echo-0",
            pod_uid=sandbox.uid,
            namespace=sandbox.namespace,
            pod=sandbox.name,
            container="echo",
            attempt=0,
            image=image,
            argv=resolve_argv(image, (), ()),
            env=image.env,
            hostname=sandbox.name,
            netns_path=sandbox.netns_path,
            mounts=sandbox.etc_mounts(),
            log_path=home / "pods" / sandbox.uid / "echo.log",
        )
    )


@contextlib.contextmanager
def _timed(what: str, times: dict[str, list[float]]) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    times.setdefault(what, []).append(time.perf_counter() - begin)
