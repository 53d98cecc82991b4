"""A cache that lags must never make a controller do the same thing twice.

Here a cache does not merely lag: its informer is stopped, so the controller sees nothing of what it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.controllers import endpointslices, replicaset
from agent.controllers.caches import Caches
from agent.controllers.endpointslices import EndpointSlices
from agent.controllers.replicaset import ReplicaSets
from agent.kube.events import Recorder
from agent.kube.informer import Informer, Key
from agent.telemetry import Timeline
from tests.harness.control_plane import Cluster, Json, api_server, eventually, rs_path


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(replicaset, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(endpointslices, "LOOK_AGAIN", 0.01)
    async with api_server(tmp_path) as made:
        yield made


@asynccontextmanager
async def in_background(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def synced(caches: Caches) -> None:
    for informer in caches.by_path.values():
        await asyncio.wait_for(informer.synced.wait(), 20)


def others(caches: Caches, stopped: Informer[Any]) -> list[Coroutine[Any, Any, None]]:
    return [informer.run() for informer in caches.by_path.values() if informer is not stopped]


async def looked_at_often(runs: list[Any]) -> None:
    """The controller has come by several times since it acted, and had every chance to act again."""
    before = len(runs)

    async def more() -> bool:
        return len(runs) >= before + 5

    await eventually(more)


async def test_a_replicaset_neither_overshoots_nor_undershoots(cluster: Cluster) -> None:
    caches = Caches(cluster.client)
    recorder = Recorder(cluster.client, "test")
    sets = ReplicaSets(cluster.client, caches, recorder)
    runs: list[Any] = []
    reconcile = sets.reconcile

    async def counted(key: Any) -> None:
        await reconcile(key)
        runs.append(key)

    sets.controller._reconcile = counted
    async with in_background(sets.controller.run(), recorder.run(), *others(caches, caches.pods)):
        async with in_background(caches.pods.run()):
            await synced(caches)
        await cluster.make_replicaset("web", 5)

        async def five() -> bool:
            return len(await cluster.pods("web")) == 5

        await eventually(five)
        await looked_at_often(runs)
        assert len(await cluster.pods("web")) == 5, "it could not see its pods, and made no others"
        async with in_background(caches.pods.run()):

            async def reported() -> bool:
                found: Json | None = await cluster.get(rs_path("web"))
                return bool(found and found["status"].get("replicas") == 5)

            await eventually(reported)
        await cluster.patch(rs_path("web"), spec={"replicas": 3})

        async def three() -> bool:
            return len(await cluster.pods("web")) == 3

        await eventually(three)
        await looked_at_often(runs)
        assert len(await cluster.pods("web")) == 3, "it still saw five, and deleted no more"


async def test_a_service_gets_one_slice(cluster: Cluster) -> None:
    caches = Caches(cluster.client)
    slices = EndpointSlices(cluster.client, caches, Timeline(None))
    runs: list[Any] = []
    reconcile = slices.reconcile

    async def counted(key: Any) -> None:
        await reconcile(key)
        runs.append(key)

    slices.controller._reconcile = counted
    async with in_background(slices.controller.run(), *others(caches, caches.slices)):
        async with in_background(caches.slices.run()):
            await synced(caches)
        await cluster.make_service("web", selector={"app": "web"})
        await eventually(lambda: cluster.slices("web"))
        slices.controller.queue.add(Key("default", "web"))
        await looked_at_often(runs)
        assert len(await cluster.slices("web")) == 1
