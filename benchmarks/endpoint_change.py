"""How long until one changed endpoint is in the kernel, on a node with 100 Services of 5 endpoints, for each engine.

Everything happens in a network namespace of its own. ``change`` is the way of one changed endpoint from the Snapshot to
the return of the kernel (policy, lowering, diff, apply); ``first`` the same for all Services into empty tables;
``look`` one check for tampering where nothing changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from agent.proxy.dataplane import Dataplane
from agent.shell import run
from benchmarks.tables import print_table, summary
from netns import namespaces
from rules.iptables.engines import Engine
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.policy import resolve_frontends
from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    Family,
    Node,
    Service,
    ServiceName,
    ServicePort,
    Settings,
    SlicePort,
    Snapshot,
)

SERVICES, ENDPOINTS, ROUNDS, LOOKS = 100, 5, 40, 10

ENGINES: dict[str, Callable[[], Engine]] = {
    "iptables-nft-restore": lambda: RestoreEngine(run, variant="nft"),
    "iptables-legacy-restore": lambda: RestoreEngine(run, variant="legacy"),
    "libiptc (legacy)": lambda: LibiptcEngine(run),
}


def main() -> None:
    namespace = f"podwire-bench-{os.getpid()}"
    namespaces.ensure(namespace)
    try:
        rows = [row for name in ENGINES for row in namespaces.inside(namespace, partial(_measure, name))]
    finally:
        namespaces.remove(namespace)
    title = f"One endpoint changed, {SERVICES} Services of {ENDPOINTS} endpoints, proxy and kernel alone"
    print_table(title, ("engine", "what", "runs", "median", "p99", "max"), rows)


def _measure(name: str) -> list[tuple[str, ...]]:
    engine = ENGINES[name]()
    dataplane = Dataplane({Family.IPV4: engine})
    world = make_world(SERVICES, ENDPOINTS)
    try:
        first = [_seconds(lambda: dataplane.sync(resolve_frontends(world)))]
        changed = [change_one(world, number) for number in range(ROUNDS)]
        changes = [_seconds(partial(_sync, dataplane, snapshot)) for snapshot in changed]
        dataplane.check(thorough=True)
        looks = [_seconds(dataplane.check) for _ in range(LOOKS)]
        engine.cleanup()
    finally:
        dataplane.close()
    times = {"change": changes, "look": looks, "first": first}
    return [(name, what, *summary(values)) for what, values in times.items()]


def _sync(dataplane: Dataplane, snapshot: Snapshot) -> None:
    dataplane.sync(resolve_frontends(snapshot))


def make_world(services: int, endpoints: int) -> Snapshot:
    names = [ServiceName("default", f"service-{number}") for number in range(services)]
    return Snapshot(
        Node("here"),
        Settings(cluster_cidrs=("10.128.0.0/9",)),
        services={
            name: Service(name, cluster_ips=(_address(10 << 24 | 96 << 16, n),), ports=(ServicePort(80),))
            for n, name in enumerate(names)
        },
        slices={
            name: (_slice(name, [_address(10 << 24 | 128 << 16, n * endpoints + i) for i in range(endpoints)]),)
            for n, name in enumerate(names)
        },
    )


def change_one(world: Snapshot, number: int) -> Snapshot:
    """One Service gets another first endpoint; all others stay the same objects."""
    name = list(world.services)[number % len(world.services)]
    (piece,) = world.slices[name]
    addresses = [_address(10 << 24 | 200 << 16, number), *(endpoint.address for endpoint in piece.endpoints[1:])]
    return Snapshot(world.node, world.settings, world.services, {**world.slices, name: (_slice(name, addresses),)})


def _slice(name: ServiceName, addresses: list[str]) -> EndpointSlice:
    endpoints = tuple(Endpoint(address, node="here") for address in addresses)
    return EndpointSlice(f"{name.name}-1", "IPv4", (SlicePort(8080),), endpoints)


def _address(base: int, number: int) -> str:
    value = base + number + 1
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
