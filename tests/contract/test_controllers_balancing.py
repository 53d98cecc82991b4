"""Load balancers get addresses from the pool, from a real API server, and give them back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest_asyncio

from agent.kube import rest
from tests.harness.control_plane import NODE_IP, Cluster, Json, api_server, eventually, running_controllers

POOL = ("192.0.2.1-192.0.2.4",)  # of which NODE_IP is the node's own: three to give
SERVICES = "/api/v1/namespaces/default/services"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with api_server(tmp_path) as made:
        yield replace(made, config=replace(made.config, load_balancer_pool=POOL))


async def make(cluster: Cluster, name: str, **spec: Any) -> Json:
    return await cluster.make_service(name, selector=None, type="LoadBalancer", **spec)


async def ingress(cluster: Cluster, name: str) -> list[Json]:
    found = await cluster.get(f"{SERVICES}/{name}")
    assert found is not None
    return list(found["status"]["loadBalancer"].get("ingress") or [])


async def served(cluster: Cluster, name: str) -> str:
    """The one address of a Service, as soon as it has one."""
    (entry,) = await eventually(lambda: ingress(cluster, name))
    assert entry["ipMode"] == "VIP"
    return str(entry["ip"])


async def warned(cluster: Cluster, name: str, text: str) -> None:
    async def look() -> bool:
        found = await cluster.items(
            "/api/v1/namespaces/default/events", fieldSelector=f"involvedObject.name={name},reason=AllocationFailed"
        )
        return any(text in event["message"] for event in found)

    await eventually(look)


async def test_from_asked_for_to_given_back(cluster: Cluster) -> None:
    async with running_controllers(cluster):
        wished = await make(cluster, "wished", loadBalancerIP="192.0.2.3")
        assert await served(cluster, wished["metadata"]["name"]) == "192.0.2.3"
        names = ("first", "second")
        for name in names:
            await make(cluster, name)
        assert {await served(cluster, name) for name in names} == {"192.0.2.1", "192.0.2.4"}

        await make(cluster, "late", loadBalancerClass="podwire.io/pool")
        await warned(cluster, "late", "load_balancer_pool has no free IPv4 address left")
        assert await ingress(cluster, "late") == []
        await cluster.delete(f"{SERVICES}/wished")
        assert await served(cluster, "late") == "192.0.2.3"

        await cluster.patch(f"{SERVICES}/late", spec={"type": "ClusterIP", "loadBalancerClass": None})
        assert await ingress(cluster, "late") == []
        await make(cluster, "next")
        assert await served(cluster, "next") == "192.0.2.3"


async def test_a_burst_of_services_gets_different_addresses(cluster: Cluster) -> None:
    many = replace(cluster, config=replace(cluster.config, load_balancer_pool=("198.51.100.0/26",)))
    async with running_controllers(many):
        for number in range(30):
            await make(many, f"s{number}")
        assert len({await served(many, f"s{number}") for number in range(30)}) == 30


async def test_a_restart_adopts_what_is_there(cluster: Cluster) -> None:
    async with running_controllers(cluster):
        for name in ("a", "b"):
            await make(cluster, name)
            await served(cluster, name)
    before = {name: await cluster.get(f"{SERVICES}/{name}") for name in ("a", "b")}
    await make(cluster, "c")
    async with running_controllers(cluster):
        assert await served(cluster, "c") == "192.0.2.4"
        assert {name: await cluster.get(f"{SERVICES}/{name}") for name in ("a", "b")} == before


async def test_what_others_wrote_stays(cluster: Cluster) -> None:
    theirs: Json = {"loadBalancer": {"ingress": [{"ip": "198.51.100.7", "ipMode": "Proxy"}]}}
    async with running_controllers(cluster):
        for name, spec in (("theirs", {"loadBalancerClass": "example.com/lb"}), ("ours", {})):
            await make(cluster, name, **spec)
            if name == "ours":
                await served(cluster, name)
            await rest.patch(cluster.client, f"{SERVICES}/{name}/status", {"status": theirs})
        await make(cluster, "after")
        await served(cluster, "after")  # by now the controller has seen the others
        assert await ingress(cluster, "theirs") == theirs["loadBalancer"]["ingress"]
        assert await ingress(cluster, "ours") == theirs["loadBalancer"]["ingress"]


async def test_without_a_pool_nothing_is_assigned(cluster: Cluster) -> None:
    bare = replace(cluster, config=replace(cluster.config, load_balancer_pool=()))
    async with running_controllers(bare):
        await bare.make_service("web", selector={"app": "web"}, type="LoadBalancer")
        await eventually(lambda: bare.slices("web"))  # the controllers have seen it
        assert await ingress(bare, "web") == []
        written = {"loadBalancer": {"ingress": [{"ip": NODE_IP}]}}
        await rest.patch(bare.client, f"{SERVICES}/web/status", {"status": written})
        assert await ingress(bare, "web") == [{"ip": NODE_IP, "ipMode": "VIP"}]
