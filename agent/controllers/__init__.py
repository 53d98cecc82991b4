"""The controllers: they make what is asked for in the API true, by speaking to the API and to nothing else.

All of them have one shape. Informers keep caches; a change names a key; ``reconcile(key)`` looks at what is true now,
asks a pure function what to do, and does it with a few requests. Losing a change, or hearing of it twice, is harmless.

``runner`` queue and workers · ``caches`` what is known · ``objects``, ``endpoint_objects`` as values · ``consistency``
no decision upon a cache older than one's own writes · then a module per controller, and beside it, where there is much
to decide, its pure half: ``replicaset`` (``replicasets``), ``endpointslices`` (``membership``, ``slices``,
``triggers``), ``endpoints`` (``subsets``), ``mirroring``, ``namespaces``, ``garbage`` (``discovery``), ``services``,
``scheduler`` (``placement``), ``lifecycle``, ``loadbalancers`` (``addresspool``).

Controllers know nothing of each other. One that fails is told to the log and started again; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from agent.config import Config
from agent.controllers.addresspool import Pool
from agent.controllers.caches import Caches
from agent.controllers.discovery import EVENTS, Resource, discover
from agent.controllers.endpoints import EndpointsController
from agent.controllers.endpointslices import EndpointSlices
from agent.controllers.garbage import GarbageCollector
from agent.controllers.lifecycle import Lifecycle
from agent.controllers.loadbalancers import NAME as LOAD_BALANCERS
from agent.controllers.loadbalancers import LoadBalancers
from agent.controllers.mirroring import Mirroring
from agent.controllers.namespaces import Namespaces
from agent.controllers.objects import Object, decoder
from agent.controllers.replicaset import ReplicaSets
from agent.controllers.scheduler import NAME as SCHEDULER
from agent.controllers.scheduler import Scheduler
from agent.controllers.services import BaseObjects
from agent.kube.client import Client, KubeError
from agent.kube.events import Recorder
from agent.kube.informer import Informer
from agent.telemetry import Timeline

log = logging.getLogger(__name__)
PAUSE = (0.1, 10.0)  # seconds: first and longest pause before something that failed is tried again


async def run(client: Client, config: Config, *, ready: Callable[[], None]) -> None:
    """Run every controller until cancelled. ``ready`` is called once: caches are complete and base objects exist."""
    caches = Caches(client)
    components = ("replicaset-controller", SCHEDULER, "node-controller", LOAD_BALANCERS)
    recorders = {name: Recorder(client, name) for name in components}
    base = BaseObjects(client, caches, config)
    slices = EndpointSlices(client, caches, Timeline(config.paths.timeline))
    lifecycle = Lifecycle(client, caches, recorders["node-controller"])
    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "endpointslices": slices.controller.run,
        "endpoints": EndpointsController(client, caches).controller.run,
        "endpointslice-mirroring": Mirroring(client, caches).controller.run,
        "replicasets": ReplicaSets(client, caches, recorders["replicaset-controller"]).controller.run,
        "namespaces": Namespaces(client, caches, ca=config.paths.pki / "ca.crt").controller.run,
        "scheduler": Scheduler(client, caches, recorders[SCHEDULER]).controller.run,
        "node-lifecycle": lifecycle.run,
        "base-objects": base.controller.run,
        **_balancing(client, caches, recorders[LOAD_BALANCERS], config),
        **{f"events of {name}": recorder.run for name, recorder in recorders.items()},
    }
    async with asyncio.TaskGroup() as group:
        for path, informer in caches.by_path.items():
            group.create_task(keep_running(f"informer {path}", informer.run))
        await _until_done("base objects", base.ensure)
        collector, extra = await _make_collector(client, caches)
        for path, informer in extra.items():
            group.create_task(keep_running(f"informer {path}", informer.run))
        for informer in (*caches.by_path.values(), *extra.values()):
            await informer.synced.wait()
        for name, part in {**parts, "garbage": collector.controller.run}.items():
            group.create_task(keep_running(name, part))
        ready()


def _balancing(
    client: Client, caches: Caches, recorder: Recorder, config: Config
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Without a pool nobody here gives addresses to load balancers; any other client may."""
    pool = Pool.of_node(config)
    return {} if pool is None else {"load-balancers": LoadBalancers(client, caches, recorder, pool).controller.run}


async def keep_running(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run ``part`` until cancelled; when it fails, say so and start it again, sooner or later."""
    pause = PAUSE[0]
    while True:
        try:
            await part()
        except Exception:
            log.exception("%s failed: starting it again in %.1f s", name, pause)
        else:
            log.error("%s ended: starting it again in %.1f s", name, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE[1])


async def _until_done(what: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
    """The result of ``attempt``, as soon as the API server lets it succeed."""
    pause = PAUSE[0]
    while True:
        try:
            return await attempt()
        except KubeError as error:
            log.warning("%s: %s: trying again in %.1f s", what, error, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE[1])


async def _make_collector(client: Client, caches: Caches) -> tuple[GarbageCollector, dict[str, Informer[Any]]]:
    """The garbage collector over every kind that can be watched, and informers for the kinds nobody else needs."""
    found: list[Resource] = await _until_done("discovery", lambda: discover(client))
    watched = [r for r in found if "watch" in r.verbs and r.plural not in EVENTS]
    extra = {
        r.collection: Informer(client, r.collection, decoder(Object))
        for r in watched
        if r.collection not in caches.by_path
    }
    everything: dict[str, Informer[Any]] = {**caches.by_path, **extra}
    return GarbageCollector(client, {r: everything[r.collection] for r in watched}), extra
