"""Controllers and servers that stop, die and come back; and nodes that fall silent."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.controllers import lifecycle
from agent.kube import informer as informer_module
from agent.kube.informer import Informer
from tests.harness.control_plane import (
    Cluster,
    Json,
    api_server,
    eventually,
    pod_path,
    rs_path,
    running_controllers,
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with api_server(tmp_path) as made:
        yield made


async def settled(cluster: Cluster, app: str, count: int) -> list[Json]:
    async def look() -> list[Json]:
        found = [p for p in await cluster.pods(app) if not p["metadata"].get("deletionTimestamp")]
        assert len(found) == count
        assert all(p["spec"].get("nodeName") for p in found)
        return found

    found: list[Json] = await eventually(look)
    return found


async def test_what_happened_while_controllers_were_away_is_caught_up(cluster: Cluster) -> None:
    async with running_controllers(cluster):
        await cluster.make_node()
        await cluster.make_replicaset("web", 2)
        await cluster.make_service("web", selector={"app": "web"})
        first, second = await settled(cluster, "web", 2)
        await cluster.run_pod(first, "10.244.0.1")
        await cluster.make_replicaset("doomed", 1)
        (doomed,) = await settled(cluster, "doomed", 1)
        await cluster.make_service("old", selector={"app": "web"})
        await eventually(lambda: cluster.slices("old"))
    await cluster.patch(rs_path("web"), spec={"replicas": 3})
    await cluster.run_pod(second, "10.244.0.2")
    await cluster.delete(rs_path("doomed"))
    await cluster.delete("/api/v1/namespaces/default/services/old")
    async with running_controllers(cluster):
        await settled(cluster, "web", 3)

        async def caught_up() -> bool:
            ready = {
                e["addresses"][0]
                for s in await cluster.slices("web")
                for e in s["endpoints"]
                if e["conditions"]["ready"]
            }
            pod = await cluster.get(pod_path(doomed))
            going = pod is None or bool(pod["metadata"].get("deletionTimestamp"))
            left = await cluster.get("/api/v1/namespaces/default/endpoints/old")
            return ready == {"10.244.0.1", "10.244.0.2"} and going and not await cluster.slices("old") and left is None

        await eventually(caught_up)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_an_api_server_that_restarts_is_found_again(cluster: Cluster, how: signal.Signals) -> None:
    async with running_controllers(cluster):
        await cluster.make_node()
        await cluster.make_replicaset("web", 2)
        await settled(cluster, "web", 2)
        await cluster.server.stop(how)
        await cluster.server.start()
        await cluster.patch(rs_path("web"), spec={"replicas": 4})
        await settled(cluster, "web", 4)


async def test_two_nodes_share_the_pods(cluster: Cluster) -> None:
    await cluster.make_node("n1")
    await cluster.make_node("n2")
    async with running_controllers(cluster):  # they begin when they know both nodes
        await cluster.make_replicaset("web", 6)
        pods = await settled(cluster, "web", 6)
        on = [pod["spec"]["nodeName"] for pod in pods]
        assert (on.count("n1"), on.count("n2")) == (3, 3)


async def test_a_silent_node_takes_its_pods_out_of_service(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "GRACE", 1.5)
    async with running_controllers(cluster):
        await cluster.make_node()
        renew = {"holderIdentity": "n1", "leaseDurationSeconds": 40}
        await cluster.create("Lease", "n1", namespace="kube-node-lease", spec=renew)
        await cluster.make_replicaset("web", 1)
        await cluster.make_service("web", selector={"app": "web"})
        (pod,) = await settled(cluster, "web", 1)
        await cluster.run_pod(pod, "10.244.0.1")

        async def out_of_service() -> bool:
            node = await cluster.get("/api/v1/nodes/n1")
            endpoints = [e for s in await cluster.slices("web") for e in s["endpoints"] or []]
            return (
                condition(node, "Ready").get("status") == "Unknown"
                and condition(await cluster.get(pod_path(pod)), "Ready").get("status") == "False"
                and [e["conditions"]["ready"] for e in endpoints] == [False]
            )

        await eventually(out_of_service)
        await cluster.delete("/api/v1/nodes/n1")

        async def collected() -> bool:
            return await cluster.get(pod_path(pod)) is None

        await eventually(collected)


def condition(obj: Json | None, kind: str) -> Json:
    listed = (obj or {}).get("status", {}).get("conditions") or []
    found: Json = next((c for c in listed if c["type"] == kind), {})
    return found


async def test_informers_keep_up_with_the_real_server(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same contract as against the scripted server: list in pages, follow, end of watch, restart."""
    monkeypatch.setattr(informer_module, "PAGE", 3)
    monkeypatch.setattr(informer_module, "WATCH_SECONDS", 1)
    await cluster.create("Namespace", "watched")
    path = "/api/v1/namespaces/watched/configmaps"
    for number in range(8):
        await cluster.create("ConfigMap", f"c{number}", namespace="watched", data={"n": "0"})
    informer: Informer[Any] = Informer(cluster.client, path, msgspec.json.decode)
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.synced.wait(), 20)
        assert len(informer.cache) == 8
        for round_ in range(1, 4):
            await cluster.patch(f"{path}/c0", data={"n": str(round_)})
            await cluster.create("ConfigMap", f"new{round_}", namespace="watched")
            await cluster.delete(f"{path}/c{round_}")
            await asyncio.sleep(1.0)  # longer than a watch lasts
        await cluster.server.stop(signal.SIGKILL)
        await cluster.server.start()
        await cluster.delete(f"{path}/c7")

        async def same() -> bool:
            live = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in await cluster.items(path)}
            return live == {key.name: value["metadata"]["resourceVersion"] for key, value in informer.cache.items()}

        await eventually(same)
        assert "c7" not in {key.name for key in informer.cache}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
