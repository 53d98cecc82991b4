"""``agent.proxy`` as it runs on a node: an API server, real rules, real connections; then every trace of it removed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import proxy
from agent.config import Engine, Variant
from agent.kube.client import Client
from agent.proxy import Options
from rules.iptables.engines import EngineError
from tests.harness.cluster import Cluster, serve_cluster
from tests.harness.netfilter import PODS, MiniNode, mini_node
from tests.leaks import assert_no_leaks

VIP = "10.96.0.10"
CHOICES: list[tuple[Engine, Variant]] = [
    ("restore", "nft"),
    ("restore", "legacy"),
    ("libiptc", "auto"),
    ("auto", "auto"),
]


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with assert_no_leaks(), mini_node() as made:
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("nat", "filter"):
                made.run(tool, "-t", table, "-S")
        yield made


def make_options(engine: Engine = "auto", variant: Variant = "auto") -> Options:
    return Options(
        "here",
        cluster_cidrs=("10.244.0.0/16", "fd00:244::/64"),
        egress_cidrs=("10.244.0.0/24",),
        masquerade_egress=True,
        engine=engine,
        variant=variant,
    )


@pytest.mark.parametrize(("engine", "variant"), CHOICES)
def test_a_proxy_from_start_to_cleanup(node: MiniNode, tmp_path: Path, engine: Engine, variant: Variant) -> None:
    options, before = make_options(engine, variant), node.saved()

    async def once(client: Client) -> None:
        """Run until ready, and let go."""
        ready = asyncio.Event()
        task = asyncio.create_task(proxy.run(client, options, ready=ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert waiting.done(), task

    async def main() -> str:
        async with serve_cluster(tmp_path) as (cluster, client):
            _publish(cluster, PODS["a"])
            await once(client)
            assert await asyncio.to_thread(node.ask, "c", VIP, 80) == f"a {PODS['c']}"
            left = await proxy.dry_run(client, options)
            _publish(cluster, PODS["b"])
            await once(client)  # adopts, and changes what changed
            assert await asyncio.to_thread(node.ask, "c", VIP, 80) == f"b {PODS['c']}"
            return left

    assert node.inside("node", lambda: asyncio.run(main())) == "nothing to change\nnothing to change"
    node.inside("node", lambda: proxy.cleanup(options))
    assert node.saved() == before
    node.inside("node", lambda: proxy.cleanup(options))


def _publish(cluster: Cluster, address: str) -> None:
    cluster.put_service()
    cluster.put_slice(address)


def test_a_wish_that_cannot_be_met_is_an_error_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve_cluster(tmp_path) as (_, client):
            await proxy.run(client, make_options("libiptc", "nft"), ready=lambda: None)

    with pytest.raises(EngineError, match="use restore"):
        asyncio.run(main())
