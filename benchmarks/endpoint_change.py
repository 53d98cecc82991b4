"""How long until one changed endpoint is in the kernel, on a node with 100 Services of 5 endpoints, for each engine.

    sudo python -m benchmarks.endpoint_change [--services N] [--endpoints N] [--rounds N]

Everything happens in a network namespace of its own. ``change`` is the way of one changed endpoint from the Snapshot to
the return of the kernel (policy, lowering, diff, apply); ``first`` the same for all Services into empty tables;
``look`` one check for tampering where nothing changed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.proxy.dataplane import Dataplane
from agent.shell import run
from netns import namespaces
from rules.iptables.engines import Engine
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.policy import Memo, resolve_frontends
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

ENGINES: dict[str, Callable[[], Engine]] = {
    "iptables-nft-restore": lambda: RestoreEngine(run, variant="nft"),
    "iptables-legacy-restore": lambda: RestoreEngine(run, variant="legacy"),
    "libiptc (legacy)": lambda: LibiptcEngine(run),
}


@dataclass(frozen=True)
class Result:
    """Milliseconds."""

    engine: str
    first: float
    change: list[float]
    look: float


def main() -> None:
    arguments = _arguments()
    namespace = f"podwire-bench-{os.getpid()}"
    namespaces.ensure(namespace)
    try:
        results = [
            namespaces.inside(namespace, lambda name=name: measure(name, arguments))  # type: ignore[misc]
            for name in ENGINES
        ]
    finally:
        namespaces.remove(namespace)
    print(render(results, arguments))


def measure(name: str, arguments: argparse.Namespace) -> Result:
    engine, memo = ENGINES[name](), Memo()
    dataplane = Dataplane({Family.IPV4: engine}, run)
    world = make_world(arguments.services, arguments.endpoints)
    first = _milliseconds(lambda: dataplane.sync(resolve_frontends(world, memo)))
    changes = []
    for number in range(arguments.rounds):
        changed = change_one(world, number)
        changes.append(_milliseconds(lambda: dataplane.sync(resolve_frontends(changed, memo))))  # noqa: B023
    dataplane.check()
    look = _milliseconds(dataplane.check)
    engine.cleanup()
    dataplane.close()
    return Result(name, first, changes, look)


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


def render(results: list[Result], arguments: argparse.Namespace) -> str:
    lines = [
        f"one endpoint changed, {arguments.services} Services x {arguments.endpoints} endpoints,"
        f" {arguments.rounds} rounds; milliseconds",
        f"{'engine':<26}{'first':>10}{'change p50':>12}{'max':>8}{'look':>8}",
    ]
    for result in results:
        middle, worst = statistics.median(result.change), max(result.change)
        lines.append(f"{result.engine:<26}{result.first:>10.0f}{middle:>12.1f}{worst:>8.1f}{result.look:>8.1f}")
    return "\n".join(lines)


def _slice(name: ServiceName, addresses: list[str]) -> EndpointSlice:
    endpoints = tuple(Endpoint(address, node="here") for address in addresses)
    return EndpointSlice(f"{name.name}-1", "IPv4", (SlicePort(8080),), endpoints)


def _address(base: int, number: int) -> str:
    value = base + number + 1
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def _milliseconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How long until one changed endpoint is in the kernel.")
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--endpoints", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()
