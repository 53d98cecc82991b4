"""Which measurement is made where, one after the other; each in new namespaces, which are gone afterwards."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from benchmarks.dataplane import first_packet
from benchmarks.dataplane.first_packet import Pairs, measure_paths
from benchmarks.dataplane.network import NODE_IP, Network, network
from benchmarks.dataplane.options import Options
from benchmarks.dataplane.process import Running, measure_process
from benchmarks.dataplane.programming import Programmer, Share, Way
from benchmarks.dataplane.world import (
    ENDPOINT_PORT,
    LARGE,
    MANY,
    NODE_PORT,
    OPEN,
    SERVICE_PORT,
    Size,
    cluster_ip,
    endpoints_of,
    make_change,
    make_extras,
    make_world,
    spread,
)
from rules.snapshot import ServiceName, Snapshot

FLAT = 10_000  # Services from which on the flat list is measured beside the tree


@dataclass(frozen=True, slots=True)
class Result:
    """Of one way into the kernel, at one size. ``load``: the machine's load average when all was done.

    ``latencies`` and ``flat`` are empty for a second engine of the same variant: the rules are the same.
    """

    way: Way
    size: Size
    cold: Share
    changes: tuple[Share, ...]
    latencies: dict[str, Pairs]
    flat: dict[str, Pairs]
    running: Running
    load: float


@dataclass(frozen=True, slots=True)
class _Case:
    """What is being measured."""

    options: Options
    way: Way
    size: Size
    world: Snapshot
    began: float = field(default_factory=time.monotonic)

    def tell(self, step: str) -> None:
        """A line of progress, where it does not get into the tables."""
        when = f"{time.monotonic() - self.began:.0f} s, load {os.getloadavg()[0]:.1f}"
        print(f"  {self.size}, {self.way.name}: {step} ({when})", file=sys.stderr)


def measure_all(options: Options) -> Iterator[Result]:
    """In order of size, so that what takes long comes last."""
    with _own_lock_file(), _ended_in_order():
        for size in options.sizes:
            world = make_world(size)
            for way in options.ways:
                yield _measure(_Case(options, way, size, world))


def _measure(case: _Case) -> Result:
    repeats = case.options.changes(case.size)
    with _node(case.way) as (node, programmer):
        case.tell("loading")
        cold = programmer.load(case.world)
        case.tell("changing endpoints")
        numbers = spread(case.size, repeats)
        changes = tuple(programmer.change(make_change(case.world, number, case.size)) for number in numbers)
        is_first = case.options.is_first_of_variant(case.way)
        latencies, flat = _measure_latencies(case, node, programmer) if is_first else ({}, {})
    with network() as place:
        flushes = case.options.flushes
        running = measure_process(place, case.way, case.size, changes=repeats, flushes=flushes, tell=case.tell)
    return Result(case.way, case.size, cold, changes, latencies, flat, running, os.getloadavg()[0])


def _measure_latencies(case: _Case, tree: Network, programmer: Programmer) -> tuple[dict[str, Pairs], dict[str, Pairs]]:
    """Through the tree, and where Services are many also through the flat list."""
    case.tell("connecting")
    programmer.change(make_extras(case.world))
    with network() as empty:
        latencies = measure_paths(_paths(case, tree, beside=tree, empty=empty), case.options.pairs)
    if case.size.services < FLAT or case.size.endpoints != case.options.sizes[0].endpoints:
        return latencies, {}
    return latencies, _measure_flat(case, tree)


def _measure_flat(case: _Case, tree: Network) -> dict[str, Pairs]:
    """The node with the flat list stands beside the other; the connections compared with go over the latter."""
    case.tell("loading the flat list")
    world, extras = case.world, make_extras(case.world)
    services, slices = {**world.services, **extras.services}, {**world.slices, **extras.slices}
    with _node(case.way) as (node, programmer):
        programmer.load_flat(Snapshot(world.node, world.settings, services, slices))
        case.tell("connecting through the flat list")
        return measure_paths(_paths(case, node, beside=tree, empty=tree), case.options.pairs)


@contextmanager
def _node(way: Way) -> Iterator[tuple[Network, Programmer]]:
    with network() as made:
        programmer = Programmer(way, made)
        try:
            yield made, programmer
        finally:
            programmer.close()


def _paths(case: _Case, node: Network, *, beside: Network, empty: Network) -> list[first_packet.Path]:
    """Through Services at the beginning, in the middle and at the end of the range, and those that are special; and
    what a connection to none of them is charged, beside the network ``empty``."""

    def path(what: str, who: str, address: str, port: int, endpoint: str) -> first_packet.Path:
        return first_packet.Path(what, node, who, address, port, endpoint, beside)

    size, extras = case.size, make_extras(case.world)
    numbers = sorted(range(size.services), key=lambda number: tuple(map(int, cluster_ip(number).split("."))))
    places = {"first": numbers[0], "middle": numbers[len(numbers) // 2], "last": numbers[-1]}
    large, opened = (extras.slices[name][0].endpoints[0].address for name in (LARGE, OPEN))
    other = endpoints_of(0, size)[1]
    return [
        first_packet.Path("no Service at all", node, "client", other, ENDPOINT_PORT, other, empty),
        *(
            path(f"{place} ClusterIP", "client", cluster_ip(number), SERVICE_PORT, endpoints_of(number, size)[1])
            for place, number in places.items()
        ),
        path(f"Service of {MANY:,} endpoints", "client", _cluster_ip_of(extras, LARGE), SERVICE_PORT, large),
        path("NodePort, from outside", "outside", NODE_IP, NODE_PORT, opened),
    ]


def _cluster_ip_of(world: Snapshot, name: ServiceName) -> str:
    return world.services[name].cluster_ips[0]


@contextmanager
def _own_lock_file() -> Iterator[None]:
    """Legacy iptables takes one lock for all namespaces of a machine; these tables are nobody else's business."""
    with tempfile.TemporaryDirectory(prefix="pwt-") as folder:
        before = os.environ.get("XTABLES_LOCKFILE")
        os.environ["XTABLES_LOCKFILE"] = str(Path(folder) / "xtables.lock")
        try:
            yield
        finally:
            del os.environ["XTABLES_LOCKFILE"]
            if before is not None:
                os.environ["XTABLES_LOCKFILE"] = before


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM cleans up as SIGINT does, and neither comes in between a second time."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
