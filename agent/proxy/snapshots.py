"""One Snapshot, now: for a dry run, which watches nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from lightkube.resources.core_v1 import Node, Service
from lightkube.resources.discovery_v1 import EndpointSlice

from agent.kube.client import Client
from agent.kube.informer import Informer, resource_path
from agent.proxy.decode import decode_node, decode_service, decode_slice
from agent.proxy.options import Options
from agent.proxy.world import World
from rules.snapshot import Snapshot


async def take_snapshot(client: Client, options: Options) -> Snapshot:
    """Informers until they are synced, then what they know."""
    world = World(options.node_name, options.settings)
    services = Informer(client, resource_path(Service), decode_service)
    slices = Informer(client, resource_path(EndpointSlice), decode_slice)
    nodes = Informer(client, resource_path(Node), decode_node, fields=f"metadata.name={options.node_name}")
    services.subscribe(lambda change: _ignore(world.take_service(change)))
    slices.subscribe(lambda change: _ignore(world.take_slice(change)))
    nodes.subscribe(lambda change: _ignore(world.take_node(change)))
    informers: tuple[Informer[Any], ...] = (services, slices, nodes)
    tasks = [asyncio.create_task(informer.run()) for informer in informers]
    try:
        await asyncio.gather(*(informer.synced.wait() for informer in informers))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return world.snapshot()


def _ignore(_: object) -> None:
    pass
